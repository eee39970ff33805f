import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from msgspec.structs import replace

from attnbench.contracts.case import Case, Mask, Shape
from attnbench.contracts.errors import UsageError
from attnbench.contracts.reach import Span
from attnbench.contracts.record import Origin
from attnbench.contracts.variant import Support, Unsupported, build
from attnbench.plugins.describe import OptionField, describe_variant
from attnbench.plugins.registry import entries, find, load
from distributions import PLAIN, forget_imports, lay_out

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "tests" / "plugins"
SHAPE = Shape(batch=2, heads=3, kv_heads=3, seq_q=5, seq_k=5, head_dim=4)


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


# Names.


def test_the_built_in_variants_are_plugins_like_any_other():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["attnbench.variants"]
    found = entries("variants")
    for name, target in declared.items():
        (entry,) = found[name]
        assert (entry.target, entry.origin.distribution) == (target, "attnbench")
        assert find(name, "variants", flag="--variants") == entry


def test_an_installed_plugin_is_found_with_its_distribution_and_is_not_imported(install):
    install(
        "acme-attention", version="2.3", variants=["acme = acme_attention:attend"], files={"acme_attention.py": "1/0"}
    )
    entry = find("acme", "variants", flag="--variants")
    assert entry.target == "acme_attention:attend"
    assert entry.origin == Origin(distribution="acme-attention", version="2.3")
    assert "acme_attention" not in sys.modules


def test_a_name_that_two_distributions_claim_names_both_origins(install):
    install("acme-one", variants=["twice = acme_one:attend"])
    install("acme-two", version="2.0", variants=["twice = acme_two:attend"])
    assert len(entries("variants")["twice"]) == 2
    with pytest.raises(UsageError) as raised:
        find("twice", "variants", flag="--variants")
    for origin in ("acme-one 1.0 (acme_one:attend)", "acme-two 2.0 (acme_two:attend)"):
        assert origin in str(raised.value)


def test_a_distribution_that_lost_its_metadata_hides_no_plugin(install):
    install("acme-lost", variants=["lost = acme_lost:attend"], files={"acme_lost.py": PLAIN}, metadata=False)
    found = describe("lost")
    assert found.failure == ""
    assert str(found.origin) == "unknown unknown"


def test_a_mistyped_name_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match=r"--variants: no variant is called 'linfomer'; did you mean 'linformer'\?"):
        find("linfomer", "variants", flag="--variants")
    with pytest.raises(UsageError, match="--tasks: no task is called 'vanilla'"):
        find("vanilla", "tasks", flag="--tasks")


def test_a_file_without_its_object_is_answered_with_the_way_to_write_it():
    with pytest.raises(UsageError, match=r"mean_pool\.py looks like a file: write \./mean_pool\.py:Name"):
        find("mean_pool.py", "variants", flag="--variants")


@pytest.mark.parametrize("name", ["linformer:", "linformer:256", ":Name", "file.py:a b", "file.py:a..b", "a:"])
def test_what_names_no_object_is_a_usage_error(name):
    with pytest.raises(UsageError, match=r"does not name an object; write \./file\.py:Name or package\.module:Name"):
        find(name, "variants", flag="--variants")


@pytest.mark.parametrize(
    "path", ["missing.py", "../" * 30 + "x.py", "x\0.py", "n" * 5000 + ".py", "~nobody-at-all/x.py", "<script>.py"]
)
def test_a_file_that_is_not_there_is_a_usage_error(path):
    with pytest.raises(UsageError, match="there is no file"):
        find(f"{path}:Name", "variants", flag="--variants")


def test_a_file_whose_path_is_not_text_is_a_usage_error(tmp_path):
    path = tmp_path / "caf\udce9.py"
    path.write_text(PLAIN)
    with pytest.raises(UsageError, match="is not UTF-8"):
        find(f"{path}:attend", "variants", flag="--variants")


def test_a_file_plugin_is_known_by_its_class_and_its_path(monkeypatch):
    monkeypatch.chdir(PLUGINS)
    entry = find("./mean_pool.py:MeanPool", "variants", flag="--variants")
    assert (entry.name, entry.target) == ("MeanPool", f"{PLUGINS / 'mean_pool.py'}:MeanPool")
    assert entry.origin == Origin(path=str(PLUGINS / "mean_pool.py"))


def test_a_module_plugin_is_known_as_it_was_asked_for():
    entry = find("package.module:Name.inner", "variants", flag="--variants")
    assert (entry.name, entry.target) == ("package.module:Name.inner",) * 2


def test_finding_plugins_imports_neither_them_nor_torch():
    code = (
        "import sys, attnbench.plugins.registry as registry; "
        "[registry.find(name, 'variants', flag='') for name in registry.entries('variants')]; "
        "print([name for name in sys.modules if name == 'torch' or name.startswith('attnbench_variants')])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


# Loading.


def test_an_object_is_loaded_from_a_module_or_a_file(install):
    install("acme", files={"acme_one.py": "class A:\n    class B:\n        inner = 7\n"})
    assert load("acme_one:A.B.inner") == 7
    assert load(f"{PLUGINS / 'plain_function.py'}:first_value").__name__ == "first_value"


def test_a_file_is_imported_once():
    target = f"{PLUGINS / 'plain_function.py'}:first_value"
    assert load(target) is load(target)


def test_files_of_one_name_in_two_folders_are_two_modules(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(f"value = {folder!r}")
    assert [load(f"{tmp_path / folder / 'mine.py'}:value") for folder in ("one", "two")] == ["one", "two"]


def test_an_object_that_is_not_there_is_answered_with_the_nearest(install):
    install("acme", files={"acme_one.py": "class Attention:\n    size = 8\n"})
    with pytest.raises(AttributeError, match=r"acme_one has no 'Atention'; did you mean 'Attention'\?"):
        load("acme_one:Atention")
    with pytest.raises(AttributeError, match=r"no 'Attention\.size\.reel'; did you mean 'real'\?"):
        load("acme_one:Attention.size.reel")


def test_a_file_that_fails_fails_again_with_the_same_reason():
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="a_module_that_nobody_has"):
            load(f"{PLUGINS / 'import_fails.py'}:Lost")


# Describing.


def test_a_plugin_is_described_with_its_options_and_its_support():
    found = describe(PLUGINS / "with_options.py:Rich", size="4", limit="null")
    assert (found.failure, found.mistake) == ("", "")
    assert found.summary == "Give every query the first value, richly."
    assert found.fields[0] == OptionField(name="size", type="int", default=8, meaning="nothing depends on it")
    types = {field.name: field.type for field in found.fields}
    assert types == {
        "size": "int", "rate": "float", "mode": "fast|slow", "limit": "int|none", "name": "str", "share": "bool",
    }  # fmt: skip
    assert found.options == {"size": 4, "rate": 0.5, "mode": "fast", "limit": None, "name": "", "share": True}
    assert found.spans == {"size": Span()}
    assert found.support == Support(
        dtypes=("float32",), devices=("cpu",), causal="it looks ahead", cross=False, spans=("size",)
    )


def test_a_plain_function_is_a_plugin():
    found = describe(PLUGINS / "plain_function.py:first_value")
    assert (found.failure, found.options, found.summary) == ("", {}, "Give every query the first value.")


def test_a_class_without_words_is_not_described_with_its_base_class_s():
    found = describe(PLUGINS / "mean_pool.py:MeanPool")
    assert (found.failure, found.summary) == ("", "")


@pytest.mark.parametrize(
    ("given", "mistake"),
    [
        ({"size": "many"}, "Expected `int`, got `str` - at `$.size`"),
        ({"size": "0"}, "Expected `int` >= 1 - at `$.size`"),
        ({"colour": "red"}, "unknown field `colour`"),
        ({"mode": "medium"}, "'medium' - at `$.mode`"),
        ({"rate": "nan"}, "Expected a finite number - at `$.rate`"),
        ({"rate": "-inf"}, "Expected a finite number - at `$.rate`"),
    ],
)
def test_a_wrong_option_is_a_mistake_that_names_it_and_the_right_ones(given, mistake):
    found = describe(PLUGINS / "with_options.py:Rich", **given)
    assert found.failure == ""
    assert mistake in found.mistake
    assert "its options are size (int, 8), rate (float, 0.5), mode (fast|slow, fast)" in found.mistake


def test_an_option_of_a_plugin_without_any_is_a_mistake():
    assert describe(PLUGINS / "mean_pool.py:MeanPool", size="4").mistake.endswith("it takes no options")


@pytest.mark.parametrize(
    ("target", "failure"),
    [
        ("import_fails.py:Lost", "ModuleNotFoundError: No module named 'a_module_that_nobody_has'"),
        ("exits.py:Name", "SystemExit: 3"),
        ("plain_function.py:last_value", "NoSuchObject: .* has no 'last_value'; did you mean 'first_value'?"),
        ("bad_options.py:NotDerived", "TypeError: NotDerived.Options must be a class derived from attnbench.Options"),
        ("bad_options.py:NotScalar", r"ValidationError: Expected `bool \| int .*`, got `array` - at `\$\.fields"),
        ("bad_options.py:Unreadable", "NameError: .*a_name_that_is_not_there"),
        ("wrong_supports.py:ADict", "TypeError: ADict.supports is .*; write supports = attnbench.Support"),
        ("wrong_supports.py:ABareString", r"ValidationError: Expected `array`, got `str` - at `\$\.support\.dtypes`"),
        ("wrong_supports.py:AnUnknownDtype", r"ValidationError: .*'float8' - at `\$\.support\.dtypes"),
        ("wrong_supports.py:ANumber", r"ValidationError: .*got `int` - at `\$\.support\.causal`"),
    ],
)
def test_a_broken_plugin_is_a_failure_with_its_reason(target, failure):
    found = describe(PLUGINS / target)
    assert (found.origin.path, found.support) == (str(PLUGINS / target.partition(":")[0]), None)
    assert re.match(failure, found.failure)


@pytest.mark.parametrize(
    ("target", "mistake"),
    [
        ("NoDefault", "missing required field `size`"),
        ("NotFinite", "Expected a finite number - at `$.temperature`"),
    ],
)
def test_options_whose_defaults_cannot_be_used_are_told_as_a_mistake(target, mistake):
    assert mistake in describe(PLUGINS / f"bad_options.py:{target}").mistake


def test_a_missing_option_can_be_given():
    assert describe(PLUGINS / "bad_options.py:NoDefault", size="4").options == {"size": 4}


# The architecture's own example.


@pytest.mark.parametrize("causal", [False, True])
def test_the_first_plugin_of_the_documentation_is_attention_with_equal_scores(causal):
    import torch

    mean_pool = load(f"{PLUGINS / 'mean_pool.py'}:MeanPool")
    case = Case(variant="MeanPool", shape=SHAPE, mask=Mask(causal=causal))
    q, k, v = torch.zeros(2, 3, 5, 4), torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    exact = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    torch.testing.assert_close(build(mean_pool, case)(q, k, v), exact)
    with pytest.raises(Unsupported, match="no window"):
        build(mean_pool, replace(case, mask=Mask(window=2)))
