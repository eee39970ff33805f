"""What the README and the documents show works as it stands."""

import json
import re
import shutil
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import attnbench
from helpers.command import SMALL
from helpers.command import attnbench as command
from helpers.documents import ROOT, code, command_lines, shell_lines

README = ROOT / "README.md"
PLUGINS = ROOT / "docs" / "plugins.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder with the README's plugin and the reference run, as a reader has them."""
    (plugin,) = [block for block in code(README, "python") if "class MeanPool" in block]
    (tmp_path / "mean_pool.py").write_text(plugin)
    (plan,) = ROOT.glob("results/*/*/plan.json")
    shutil.copytree(plan.parent, tmp_path / "results" / plan.parent.name)
    return tmp_path


def test_the_plugin_of_the_readme_runs_full_and_causal(folder: Path) -> None:
    for mask in ("--no-causal", "--causal"):
        words = ("--variants", "./mean_pool.py:MeanPool", mask, "--metrics", "latency,memory,agreement", "--json")
        done = command("run", *words, *SMALL, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert {row["status"] for row in json.loads(done.stdout)} == {"ok"}


@pytest.mark.parametrize("words", [*command_lines(README)], ids=" ".join)
def test_every_command_of_the_readme_works(folder: Path, words: tuple[str, ...]) -> None:
    if words[0] == "run":
        # Asked for a device that no machine has, the command reads everything else first.
        done = command(*words, "--device", "cuda:99", cwd=folder)
        assert (done.returncode, "--device" in done.stderr) == (2, True), done.stderr
    else:
        done = command(*words, cwd=folder)
        assert done.returncode == 0, done.stderr


def test_every_other_shell_line_of_the_readme_names_a_file_or_a_target_that_exists() -> None:
    others = [line for line in shell_lines(README) if not line.startswith("attnbench ")]
    assert others == ["pip install -c constraints.txt ."]
    assert (ROOT / "constraints.txt").is_file()
    targets = re.findall(r"`make (\w+)`", README.read_text())
    assert targets
    assert set(targets) <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_the_figures_in_the_readmes_prose_stand_in_its_table() -> None:
    before, _, after = README.read_text().partition("<!-- made by docs/make.py: example -->")
    table, _, prose = after.partition("<!-- end -->")
    quoted = re.findall(r"([\d.]+)\s+(?:ms|MiB)\b", before + prose)
    assert len(quoted) >= 3
    assert [figure for figure in quoted if not re.search(rf"\s{re.escape(figure)}[~!*\s]", table)] == []


def test_the_readme_counts_the_installed_mechanisms() -> None:
    mechanisms = {point.name for point in entry_points(group="attnbench.variants")} - {"empty"}
    assert f"{len(mechanisms)} mechanisms" in README.read_text()


def test_build_run_and_load_work_as_the_documents_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in code(ROOT / "docs" / "python.md", "python"):
        exec(block, names)  # the page's blocks follow one another
    run, frame = names["run"], names["frame"]
    assert isinstance(run, attnbench.Run)
    assert set(frame[frame.metric == "latency"].variant) == {"flash", "linear", "empty"}
    assert list(names["times"].index) == [64, 128]


def test_the_mechanism_of_the_plugins_page_runs_with_its_options(tmp_path: Path) -> None:
    (plugin,) = [block for block in code(PLUGINS, "python") if "class Recent" in block]
    (tmp_path / "recent.py").write_text(plugin)
    words = ("--variants", "./recent.py:Recent:width=8", "--causal", "--metrics", "latency,agreement", "--json")
    done = command("run", *words, *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [row for row in json.loads(done.stdout) if row["variant"] == "Recent"]
    assert {(row["status"], row["options"]["width"]) for row in rows} == {("ok", 8)}


def test_the_task_of_the_plugins_page_can_be_trained(tmp_path: Path) -> None:
    (task,) = [block for block in code(PLUGINS, "python") if "class Largest" in block]
    (tmp_path / "largest.py").write_text(task)
    words = ("--metrics", "accuracy", "--tasks", "./largest.py:Largest:steps=2,train_examples=100", "--json")
    done = command("run", "--variants", "vanilla", *words, *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {row["status"] for row in json.loads(done.stdout) if row["metric"] == "accuracy"} == {"ok"}


def test_the_metrics_of_the_plugins_page_are_measured(tmp_path: Path) -> None:
    (metrics,) = [block for block in code(PLUGINS, "python") if "class TokensPerSecond" in block]
    (tmp_path / "own_metrics.py").write_text(metrics)
    names = ("OutputNorm", "TokensPerSecond")
    words = ("--metrics", ",".join(f"./own_metrics.py:{name}" for name in names), "--json")
    done = command("run", "--variants", "linear", *words, *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    figures = {row["metric"]: row for row in json.loads(done.stdout) if row["variant"] == "linear"}
    assert {name: figures[name]["status"] for name in names} == dict.fromkeys(names, "ok")
    assert figures["TokensPerSecond"]["value"] == pytest.approx(64 / figures["latency"]["value"])
