"""Files that are plugins, where people keep them: in packages, below a repository's root, under odd names."""

import subprocess
import sys
from pathlib import Path

import pytest

from attnbench.contracts.errors import UsageError
from attnbench.planning.suites import find_suite
from attnbench.plugins.registry import find

SCALE = "scale = 1"
RELATIVE = "from .maths import scale\n\n\ndef attend(q, k, v):\n    return q * scale\n"
ABSOLUTE = "from {module} import scale\n\n\ndef attend(q, k, v):\n    return q * scale\n"
CHILD = """
import sys
from attnbench.plugins.describe import describe_variant
from attnbench.plugins.registry import find
description = describe_variant(find(sys.argv[1], "variants", flag=""), {})
print(description.failure or sorted(path.rpartition("/")[2] for path in description.sources))
"""


def describe(target: Path) -> str:
    """Describe a plugin in a process of its own, and return its failure or the files that it read."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, f"{target}:attend"], capture_output=True, text=True, check=True, cwd="/"
    )
    return done.stdout.strip()


def write(root: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


@pytest.mark.parametrize(
    ("files", "read"),
    [
        pytest.param(
            {"acme/__init__.py": "", "acme/a/__init__.py": "", "acme/a/mine.py": RELATIVE, "acme/a/maths.py": SCALE},
            ["__init__.py", "__init__.py", "maths.py", "mine.py"],
            id="relative imports",
        ),
        pytest.param(
            {"acme/__init__.py": "", "acme/mine.py": ABSOLUTE.format(module="acme.maths"), "acme/maths.py": SCALE},
            ["__init__.py", "maths.py", "mine.py"],
            id="absolute imports of its own package",
        ),
        pytest.param(
            {"pyproject.toml": "", "models/mine.py": ABSOLUTE.format(module="tools.maths"), "tools/maths.py": SCALE},
            ["maths.py", "mine.py"],
            id="imports from the root of the repository",
        ),
        pytest.param(
            {"json/__init__.py": "", "json/mine.py": RELATIVE, "json/maths.py": ""},
            "ImportError: json.mine lies in {root}/json, but another package is called 'json'; rename the folder",
            id="a package that is called like another",
        ),
        pytest.param(
            {"mine.py": RELATIVE, "maths.py": SCALE},
            "ImportError: mine.py has relative imports; add an __init__.py to its folder",
            id="relative imports outside a package",
        ),
    ],
)  # fmt: skip
def test_a_file_is_imported_as_what_it_is(tmp_path: Path, files: dict[str, str], read: list[str] | str) -> None:
    write(tmp_path, files)
    (mine,) = tmp_path.rglob("mine.py")
    assert describe(mine) == (read.format(root=tmp_path) if isinstance(read, str) else str(read))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("./mine.py::Mine", "names neither a file that ends in .py nor a module"),
        ("./mine:Mine", "names neither a file that ends in .py nor a module"),
        ("./mine.txt:Mine", "names neither a file that ends in .py nor a module"),
        ("./some", "it looks like a path: write ./file.py:Name or package.module:Name, without commas"),
        ("./mine.py", "./mine.py looks like a file: write ./mine.py:Name"),
    ],
)
def test_a_path_that_names_no_plugin_is_answered_with_the_way_to_write_it(name: str, said: str) -> None:
    with pytest.raises(UsageError, match="--variants: ") as raised:
        find(name, "variants", flag="--variants")
    assert said in str(raised.value)


def test_paths_in_a_suite_s_file_start_from_its_folder(tmp_path: Path) -> None:
    write(tmp_path, {"suites/mine.toml": SUITE, "suites/mine.py": "", "metrics.py": ""})
    sweep = find_suite(str(tmp_path / "suites" / "mine.toml")).sweep
    assert sweep.variants == f"vanilla, {tmp_path}/suites/mine.py:Mine:size=2,{tmp_path}/suites/mine.py:Other"
    assert sweep.metrics == f"latency,{tmp_path}/metrics.py:Norm"
    assert sweep.tasks == "/elsewhere/task.py:Task"
    assert sweep.text == f"{tmp_path}/suites/words.txt"


def test_a_suite_s_folder_whose_name_has_a_comma_is_wrong_usage(tmp_path: Path) -> None:
    write(tmp_path, {"a,b/mine.toml": SUITE})
    with pytest.raises(UsageError, match="a,b has a comma in its name, which separates plugins; rename it"):
        find_suite(str(tmp_path / "a,b" / "mine.toml"))


SUITE = """
description = "mine"
[sweep]
variants = "vanilla, ./mine.py:Mine:size=2,mine.py:Other"
metrics = "latency,../metrics.py:Norm"
tasks = "/elsewhere/task.py:Task"
text = "words.txt"
"""
