"""Where a plugin's code comes from: the hash that makes an edited plugin another one, and nothing else does."""

import sys
from pathlib import Path

import pytest

from attnbench.plugins.describe import describe_variant
from attnbench.plugins.registry import find
from distributions import PLAIN, forget_imports, lay_out

PLUGINS = Path(__file__).parents[1] / "plugins"


@pytest.fixture(autouse=True)
def forgotten_imports():
    """Let each test import its plugins anew."""
    paths = list(sys.path)
    yield
    sys.path[:] = paths
    forget_imports()


@pytest.fixture
def install(tmp_path, monkeypatch):
    def install(name, **laid_out):
        place = lay_out(tmp_path / name / "site-packages", name, **laid_out)
        monkeypatch.syspath_prepend(place)
        return place

    return install


def describe(target, **given):
    return describe_variant(find(str(target), "variants", flag="--variants"), given)


def hash_of(target):
    """Describe as a child does: with the plugin's modules not yet imported."""
    forget_imports()
    found = describe(target)
    assert found.failure == ""
    assert len(found.origin.source_hash) == 16
    return found.origin.source_hash


def test_editing_a_file_plugin_or_a_file_that_it_imports_changes_its_hash(tmp_path):
    (tmp_path / "mine.py").write_text("import acme_helper\n" + PLAIN)
    (tmp_path / "acme_helper.py").write_text("size = 1\n")
    (tmp_path / "unrelated.py").write_text("size = 1\n")
    target = tmp_path / "mine.py:attend"
    first = hash_of(target)
    (tmp_path / "unrelated.py").write_text("size = 2\n")
    assert hash_of(target) == first
    (tmp_path / "acme_helper.py").write_text("size = 23\n")
    second = hash_of(target)
    (tmp_path / "mine.py").write_text("import acme_helper\n\n" + PLAIN)
    assert len({first, second, hash_of(target)}) == 3


def test_a_plugin_moved_to_another_folder_keeps_its_hash(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(PLAIN)
    assert hash_of(tmp_path / "one" / "mine.py:attend") == hash_of(tmp_path / "two" / "mine.py:attend")


def test_an_installed_package_is_hashed_with_all_of_its_own_files(install):
    files = {"acme/__init__.py": "", "acme/core/__init__.py": "import acme.maths\n" + PLAIN, "acme/maths.py": ""}
    place = install("acme", variants=["acme = acme.core:attend"], files=files)
    first = hash_of("acme")
    assert first == hash_of("acme.core:attend")
    (place / "acme" / "maths.py").write_text("pi = 3\n")
    assert hash_of("acme") != first


def test_what_a_plugin_imports_from_other_distributions_is_not_its_own(install):
    place = install("acme", files={"acme_one.py": "import acme_other\n" + PLAIN, "acme_other.py": ""})
    first = hash_of("acme_one:attend")
    (place / "acme_other.py").write_text("size = 1\n")
    assert hash_of("acme_one:attend") == first
    (place / "acme_one.py").write_text("import acme_other\n\n" + PLAIN)
    assert hash_of("acme_one:attend") != first


def test_an_environment_that_lies_beside_a_file_plugin_is_not_its_own(tmp_path, monkeypatch):
    installed = tmp_path / ".venv" / "lib" / "site-packages"
    installed.mkdir(parents=True)
    (installed / "acme_other.py").write_text("")
    monkeypatch.syspath_prepend(installed)
    (tmp_path / "mine.py").write_text("import acme_other\n" + PLAIN)
    first = hash_of(tmp_path / "mine.py:attend")
    (installed / "acme_other.py").write_text("size = 1\n")
    assert hash_of(tmp_path / "mine.py:attend") == first


def test_an_interpreter_that_lies_beside_a_file_plugin_is_not_its_own(tmp_path, monkeypatch):
    library = tmp_path / "python" / "lib"
    library.mkdir(parents=True)
    (library / "acme_other.py").write_text("")
    monkeypatch.syspath_prepend(library)
    monkeypatch.setattr("attnbench.plugins.place._LIBRARY", library)
    (tmp_path / "mine.py").write_text("import acme_other\n" + PLAIN)
    first = hash_of(tmp_path / "mine.py:attend")
    (library / "acme_other.py").write_text("size = 1\n")
    assert hash_of(tmp_path / "mine.py:attend") == first


def test_what_was_imported_before_a_plugin_is_not_its_own(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine.py").write_text(PLAIN)
    first = hash_of(tmp_path / "mine.py:attend")
    (tmp_path / "acme_earlier.py").write_text(PLAIN)
    forget_imports()
    describe_variant(find("acme_earlier:attend", "variants", flag="--variants"), {})
    assert describe(tmp_path / "mine.py:attend").origin.source_hash == first


def test_a_part_of_a_namespace_package_is_hashed(install):
    place = install("acme", files={"acme_space/fast/__init__.py": PLAIN})
    first = hash_of("acme_space.fast:attend")
    (place / "acme_space" / "fast" / "__init__.py").write_text("\n" + PLAIN)
    assert hash_of("acme_space.fast:attend") != first


def test_describing_a_plugin_again_in_one_process_gives_the_same_origin():
    target = PLUGINS / "plain_function.py:first_value"
    assert describe(target) == describe(target)


def test_what_is_built_into_the_interpreter_has_no_source_to_hash():
    found = describe("time:monotonic")
    assert (found.failure, found.origin.source_hash) == ("", "")
