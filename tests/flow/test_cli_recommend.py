"""`attnbench recommend` on stored runs, as a user has it: what it prints, measures, refuses, and exits with."""

import json
from pathlib import Path

import pytest

from helpers.command import SMALL, attnbench, call
from helpers.stored import store, timed
from helpers.subtests import as_subtests
from unit.report.planted import accuracies, memories

LENGTHS = (512, 1024, 2048)
ASKED = ("--seq", "1024", "--device", "cpu")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A run, of another machine than this one: `linear` is fast and forgets, `vanilla` is large."""
    times = timed("vanilla", 1.0, lengths=LENGTHS) + timed("linear", 0.5, lengths=LENGTHS)
    sizes = memories("vanilla", LENGTHS) + memories("linear", LENGTHS)
    store(tmp_path, "base", [*times, *sizes, accuracies("vanilla", [0.99]), accuracies("linear", [0.2])])
    return tmp_path


def test_a_named_run_is_used_and_reported_as_measured_on_another_machine(runs: Path) -> None:
    done = attnbench("recommend", *ASKED, "base", cwd=runs)
    assert (done.returncode, done.stderr) == (0, "")
    told = " ".join(done.stdout.split())
    assert "batch 1, heads 8, head dim 64, float32, cpu, forward: linear (513 [512, 514] us, 2.00 MiB" in told
    assert "measured elsewhere: run base: cpu, torch 2.13.0, 2 threads" in told
    assert "latency of linear, vanilla: measured at this length, 5 rounds, run base" in told
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_variants_that_miss_a_requirement_are_left_out_with_a_reason_and_no_answer_exits_with_1(runs: Path) -> None:
    accurate = call("recommend", *ASKED, "--anywhere", "--min-accuracy", "0.9", "--task", "mqar", cwd=runs)
    assert accurate.returncode == 1  # the runs are of a time when mechanisms did not declare which keys they see
    assert "linear: accuracy on mqar 0.200, at least 0.900 asked" in accurate.stdout
    assert "it does not declare which share of the keys it sees at N = 64 and 1024" in " ".join(accurate.stdout.split())
    small = ("--memory", "4MiB", "--min-accuracy", "0.9")
    none = call("recommend", *ASKED, "--anywhere", *small, cwd=runs)
    assert none.returncode == 1
    assert "vanilla: needs 32.0 MiB, 4.00 MiB allowed" in none.stdout


def test_runs_of_other_machines_are_left_out_unless_asked_for(runs: Path) -> None:
    done = call("recommend", *ASKED, "--threads", "1", cwd=runs)
    assert done.returncode == 1
    assert "left out: run base: " in done.stdout
    assert "(--anywhere takes it)" in " ".join(done.stdout.split())


def test_standard_output_is_json_alone_with_the_evidence(runs: Path) -> None:
    found = json.loads(call("recommend", "--seq", "1500", "base", "--json", cwd=runs).stdout)
    first = found["lines"][0]
    assert (first["variant"], first["verdict"], first["rank"]) == ("linear", "meets", 1)
    assert (first["latency"]["how"], first["latency"]["lengths"]) == ("between", [1024, 2048])
    assert found["runs"] == ["base"]


def test_missing_figures_are_measured_at_once_if_asked(tmp_path: Path) -> None:
    sizes = ("--heads", "2", "--head-dim", "16", "--threads", "1", "--profile", "quick")
    words = ("--seq", "64", *sizes, "--variants", "vanilla,linear", "--memory", "1GiB")
    done = call("recommend", *words, "--measure", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {line["variant"]: line["verdict"] for line in found["lines"]} == {"vanilla": "meets", "linear": "meets"}
    (run,) = (tmp_path / "results").iterdir()
    assert found["runs"] == [run.name]
    again = call("recommend", *words, "--measure", "--json", cwd=tmp_path)
    assert again.returncode == 0
    assert len(list((tmp_path / "results").iterdir())) == 1


@as_subtests(
    "words, told",
    [
        (("--seq", "512,1024"), "--seq: an answer is for one workload, and this is 2 shapes"),
        (("--seq", "1024", "--memory", "24X"), "--memory: '24X' is not an amount of memory; write 24GiB"),
        (("--seq", "1024", "--max-latency", "soon"), "write 50ms"),
        (("--seq", "1024", "nowhere"), "no run is called 'nowhere'"),
        (("--seq", "1024", "--passes", "forward,decode"), "--passes: an answer is for one workload"),
    ],
)
def test_a_mistake_is_one_sentence_and_exits_with_2(runs: Path, words: tuple[str, ...], told: str) -> None:
    words = words if words[-1] == "nowhere" else (*words, "base")
    done = call("recommend", *words, cwd=runs)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert told in done.stderr


def test_without_any_run_the_answer_says_how_to_measure(tmp_path: Path) -> None:
    done = call("recommend", *SMALL[:2], "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 1
    assert "--measure measures what is not known" in done.stdout


def test_a_variant_that_was_seen_to_fail_is_not_recommended_for_what_it_does_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text(Path("tests/plugins/at_one_length.py").read_text())
    wanted = ("vanilla", "./p.py:NotANumberAt128", "./p.py:WronglyExact")
    words = ("--variants", ",".join(wanted), "--seq", "64..256", *SMALL[2:], "--inputs", "normal")
    done = call("run", *words, "--metrics", "latency,agreement", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for seq, failed in (("128", "invalid output at 128"), ("180", "failed nearby: invalid output at 128")):
        found = call("recommend", "--seq", seq, *SMALL[2:6], "latest", cwd=tmp_path)
        told = " ".join(found.stdout.split())
        assert "float32, cpu, forward: vanilla (" in told
        assert failed in told
        assert "calls itself exact and errs by" in told
    (latency,) = [
        row
        for row in json.loads(call("show", "latest", "--metric", "latency", "--json", cwd=tmp_path).stdout)
        if (row["variant"], row["seq_q"]) == ("WronglyExact", 256)
    ]
    assert (latency["status"], latency["value"]) == ("invalid_output", None)
