"""What the README shows works as it stands."""

import json
import re
from importlib.metadata import entry_points
from pathlib import Path

import attnbench
from attnbench.contracts.suite import Sweep
from attnbench.planning.plan import check
from attnbench.planning.request import Request
from helpers.command import SMALL
from helpers.command import attnbench as command

README = Path(__file__).parents[1] / "README.md"


def code(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_plugin_of_the_readme_runs_full_and_causal(tmp_path: Path) -> None:
    (plugin,) = [block for block in code("python") if "class MeanPool" in block]
    (tmp_path / "mean_pool.py").write_text(plugin)
    for mask in ("--no-causal", "--causal"):
        words = ("--variants", "./mean_pool.py:MeanPool", mask, "--metrics", "latency,memory,agreement", "--json")
        done = command("run", *words, *SMALL, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert {row["status"] for row in json.loads(done.stdout)} == {"ok"}


def test_every_command_of_the_readme_is_understood(tmp_path: Path) -> None:
    lines = re.findall(r"^    (?:\.venv/bin/)?attnbench (run .*)$", README.read_text(), re.MULTILINE)
    assert len(lines) >= 3
    for line in lines:
        # Asked for a device that no machine has, the command reads everything else first.
        words = [word for word in line.split() if not word.startswith("vanilla,")] if "./" in line else line.split()
        done = command(
            *[word for word in words if word != "--variants" or "./" not in line], "--device", "cuda:99", cwd=tmp_path
        )
        assert (done.returncode, "--device" in done.stderr) == (2, True), done.stderr


def test_every_installed_mechanism_is_named_and_counted() -> None:
    mechanisms = {point.name for point in entry_points(group="attnbench.variants")} - {"empty"}
    told = README.read_text().partition("## Mechanisms")[2].partition("Your own is")[0]
    assert set(re.findall(r"`([a-z][a-z0-9-]*)`", told)) == mechanisms
    assert told.split()[0] == str(len(mechanisms))


def test_build_run_and_load_work_as_the_readme_says(tmp_path: Path) -> None:
    import torch

    attention = attnbench.build("reformer:rounds=2,bucket=16", seq=64, heads=2, head_dim=16, causal=True)
    q, k, v = (torch.randn(1, 2, 64, 16) for _ in range(3))
    assert attention(q, k, v).shape == q.shape
    run = attnbench.run(
        variants=["flash", "linear"], seq="64", heads=2, head_dim=16, metrics=["latency"], profile="quick", out=tmp_path
    )
    frame = attnbench.load(run.path)
    assert set(frame[frame.metric == "latency"].variant) == {"flash", "linear", "empty"}


def test_the_suite_of_the_readme_can_be_planned(tmp_path: Path) -> None:
    (suite,) = [block for block in code("toml") if "[[sweep.shapes]]" in block]
    (tmp_path / "mine.toml").write_text(suite)
    check(Request(threads=1, suite=str(tmp_path / "mine.toml"), sweep=Sweep(shapes="large")))


def test_every_installed_suite_and_paper_is_named() -> None:
    told = README.read_text().partition("## Commands")[2].partition("## Mechanisms")[0]
    for group in ("suites", "papers"):
        assert {point.name for point in entry_points(group=f"attnbench.{group}")} <= set(
            re.findall(r"`([\w-]+)`", told)
        )
