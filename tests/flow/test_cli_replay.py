"""`attnbench replay`, with a paper of an outside package: nothing of the harness knows its name."""

import json
from pathlib import Path

import pytest

from flow.test_cli_commands import distribution
from helpers.command import call
from helpers.subtests import as_subtests

PAPER = """\
title = "Small blocks"
source = "Nobody 2020"
note = "on one machine of theirs"
suite = "quick"
table = "small.csv"
mechanism = "name"
baseline = "Fast"
[conditions]
device = "a mainframe"
heads = 8
[[figures]]
metric = "latency"
passes = "forward"
value = "ms"
scale = 1e-3
seq = "n"
[[figures]]
metric = "accuracy"
value = "score"
task = "riddles"
[mechanisms.Fast]
variant = "flash"
[mechanisms.Fused]
reason = "it is part of another program"
"""
TABLE = "name,n,ms,score\nFast,64,0.5,0.9\nFast,128,,0.9\nFused,64,1.5,0.8\n"


@pytest.fixture
def site(tmp_path: Path) -> str:
    files = {"acme/__init__.py": "", "acme/small.toml": PAPER, "acme/small.csv": TABLE}
    return distribution(tmp_path / "site", "acme", "[attnbench.papers]\nsmall = acme:small.toml\n", files)


def test_a_paper_is_measured_and_printed_beside_its_figures_and_again_from_the_stored_run(
    tmp_path: Path, site: str
) -> None:
    only_costs = PAPER.replace('[[figures]]\nmetric = "accuracy"\nvalue = "score"\ntask = "riddles"\n', "")
    (Path(site) / "acme" / "small.toml").write_text(only_costs)
    quick = ("--seq", "64", "--profile", "quick", "--threads", "1")
    done = call("replay", "small", *quick, cwd=tmp_path, site=site)
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stdout.split())
    assert told.startswith("Small blocks Published: Nobody 2020 There: on one machine of theirs")
    assert "Fused: none here, as it is part of another program" in told
    assert "device a mainframe there," in told
    assert "heads" not in told.partition("Set-up:")[2]
    assert max(map(len, done.stdout.splitlines())) <= 80
    (run,) = (tmp_path / "results").iterdir()
    assert f"(again: attnbench replay small --run {run.name})" in done.stderr
    again = call("replay", "small", "--run", "latest", cwd=tmp_path, site=site)
    assert again.stdout == done.stdout
    found = json.loads(call("replay", "small", "--run", "latest", "--json", cwd=tmp_path, site=site).stdout)
    figures = {(each["mechanism"], each["seq"]): each for each in found["figures"]}
    assert figures["Fast", 64]["published"] == 0.0005
    assert figures["Fast", 64]["value"] > 0
    assert figures["Fast", 128]["why"] == "not in this run"
    assert (figures["Fused", 64]["published_ratio"], figures["Fused", 64]["ratio"]) == (3.0, None)
    other = call("run", "--resume", run.name, cwd=tmp_path)
    assert other.returncode == 0, "a replay's run is a run like any other"


@as_subtests(
    "words, told",
    [
        (("smal",), "replay: no paper is called 'smal'; did you mean 'small'?"),
        (("fa1", "--preset", "tiny"), "--preset: fa1 trains nothing; leave it out"),
        (("mqar", "--seq", "64"), "--seq: the lengths of mqar are those of its tasks; leave --seq out"),
        (("fa1", "--run", "latest", "--seq", "64"), "--seq: --run prints a stored run as it is; leave --seq out"),
        (("small", "--preset", "tiny"), "no task of small can be trained here"),
        (("fa1", "--profile", "swift"), "--profile: 'swift' is not one of quick, default, rigorous"),
    ],
)
def test_flags_that_do_not_fit_the_paper_are_a_mistake_in_one_sentence_that_writes_nothing(
    tmp_path: Path, site: str, words: tuple[str, ...], told: str
) -> None:
    done = call("replay", *words, cwd=tmp_path, site=site)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert told in done.stderr
    assert not (tmp_path / "results").exists()
