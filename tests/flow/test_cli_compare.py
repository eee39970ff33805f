"""`attnbench compare` on stored runs, as a user has it: what it prints, refuses, and exits with."""

import csv
import json
from pathlib import Path

import pytest
from msgspec.structs import replace

import attnbench as package
from helpers.command import attnbench, call
from helpers.stored import MACHINE, store, timed
from helpers.subtests import as_subtests
from unit.report.planted import agreements, failed, job, memories
from unit.report.scenarios import HOSTILE

LENGTHS = (512, 1024)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three runs: of the second, `linear` is 20% slower; the third has it on another torch."""
    base = timed("vanilla", 1.0) + timed("linear", 0.5) + memories("vanilla", LENGTHS) + agreements("vanilla", LENGTHS)
    later = timed("vanilla", 1.0) + timed("linear", 0.6) + memories("vanilla", LENGTHS)
    store(tmp_path, "base", base)
    store(tmp_path, "later", later)
    store(tmp_path, "other", later, machine=replace(MACHINE, torch="2.11.0", threads=1))
    return tmp_path


def test_two_runs_are_compared_in_a_table_of_80_columns_under_a_summary(runs: Path) -> None:
    done = attnbench("compare", "base", "later", cwd=runs)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[:2] == [
        "base base, new later",
        "latency: 2 of 4 slower, 2 same; geometric mean x1.095 [1.094, 1.097]",
    ]
    assert "512   linear   0.256  0.308  1.200  1.197  1.203   slower" in lines
    assert "approximation error: 2 of 2 incomparable" in lines
    assert max(map(len, lines)) <= 80


def test_two_variants_of_a_run_are_compared_round_by_round(runs: Path) -> None:
    done = call("compare", "base", "--variants", "vanilla,linear", "--metric", "latency", cwd=runs)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("within run base\nlatency: 2 of 2 faster; geometric mean x0.500")
    assert "linear against vanilla" in done.stdout
    assert "paired by round" in " ".join(done.stdout.split())


def test_runs_that_were_not_measured_alike_are_refused_by_name_unless_forced(runs: Path) -> None:
    refused = call("compare", "base", "other", cwd=runs)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "differ in torch (2.13.0 and 2.11.0), threads (2 and 1)" in refused.stderr
    assert "--force" in refused.stderr
    forced = call("compare", "base", "other", "--force", cwd=runs)
    assert forced.returncode == 0
    assert "not measured alike: torch (2.13.0 and 2.11.0), threads (2 and 1)" in forced.stdout
    assert "torch (2.13.0 and 2.11.0)" in forced.stderr


@as_subtests(
    "condition, code", [("slower", 1), ("slower:15%", 1), ("slower:25%", 0), ("faster", 0), ("incomparable", 1)]
)
def test_a_condition_of_fail_on_that_holds_is_reported_and_exits_with_1(runs: Path, condition: str, code: int) -> None:
    done = call("compare", "base", "later", "--fail-on", condition, cwd=runs)
    assert done.returncode == code
    assert ("--fail-on: 2 of 8: " in done.stderr) is bool(code)
    if condition == "slower":
        assert "linear latency forward seq 512 is slower (x1.200)" in done.stderr


def test_a_condition_that_nothing_could_decide_is_reported(tmp_path: Path) -> None:
    for name, factor in (("base", 1.0), ("later", 2.0)):
        store(tmp_path, name, timed("vanilla", factor, rounds=2))
    for condition, code in (("slower", 0), ("slower:5%,undecided", 1)):
        done = call("compare", "base", "later", "--fail-on", condition, cwd=tmp_path)
        assert done.returncode == code
        assert "--fail-on: nothing was decided: no comparison has a verdict" in done.stderr


def test_a_case_that_fails_where_the_base_did_not_exits_with_1_whatever_the_condition(tmp_path: Path) -> None:
    crashed = [failed(job("linear", seq=512, round=number), "crash", "ended by SIGSEGV") for number in range(1, 6)]
    store(tmp_path, "base", timed("vanilla", 1.0) + timed("linear", 0.5))
    store(tmp_path, "later", timed("vanilla", 1.0) + timed("linear", 0.5, lengths=(1024,)) + crashed)
    done = call("compare", "base", "later", "--fail-on", "slower:5%", cwd=tmp_path)
    assert done.returncode == 1
    assert "linear latency forward seq 512 has no value any more (new: crash: ended by SIGSEGV)" in done.stderr
    assert "over 3 of 4 cells" in " ".join(done.stdout.split())
    assert call("compare", "later", "base", "--fail-on", "slower:5%", cwd=tmp_path).returncode == 0
    assert call("compare", "base", "later", cwd=tmp_path).returncode == 0


def test_cases_that_could_not_be_compared_are_counted_beside_a_condition(runs: Path) -> None:
    done = call("compare", "base", "later", "--fail-on", "slower:25%", cwd=runs)
    assert (done.returncode, done.stderr) == (
        0,
        "attnbench: --fail-on: 2 of 8 could not be compared; the table says why\n",
    )


@as_subtests(
    "words, told",
    [
        (("base",), "name a second one, or two of its variants"),
        (("base", "base"), "name a second one, or two of its variants"),
        (("base", "nowhere"), "no run is called 'nowhere'"),
        (("base", "--variants", "vanilla"), "names 1; name two"),
        (("base", "--variants", "vanilla,flash"), "the run has no 'flash'"),
        (("base", "later", "--metric", "speed"), "no run here has 'speed'"),
        (("base", "later", "--fail-on", "slower:5"), "write slower, slower:5%"),
        (("base", "later", "--format", "latex"), "'latex' is not one of table, md, csv, json"),
    ],
)
def test_a_mistake_is_one_sentence_and_exits_with_2(runs: Path, words: tuple[str, ...], told: str) -> None:
    done = call("compare", *words, cwd=runs)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert told in done.stderr


def test_standard_output_is_json_alone_with_one_object_per_pair(runs: Path) -> None:
    done = call("compare", "base", "other", "--force", "--json", "--fail-on", "slower", cwd=runs)
    found = json.loads(done.stdout)
    assert (done.returncode, len(found)) == (1, 8)
    (slowed,) = [each for each in found if (each["variant"], each["seq_q"]) == ("linear", 1024)]
    assert (slowed["metric"], slowed["verdict"], slowed["new_run"]) == ("latency", "slower", "other")
    assert slowed["ratio"] == pytest.approx(1.2, rel=1e-3)
    assert slowed["base"] == pytest.approx(1024 * 0.5e-6, rel=0.01)


@pytest.mark.parametrize("form", ["csv", "md", "table"])
def test_every_format_can_be_written_to_a_file(runs: Path, form: str) -> None:
    done = call("compare", "base", "later", "--format", form, "-o", "out", cwd=runs)
    text = (runs / "out").read_text()
    assert (done.returncode, done.stdout) == (0, "")
    if form == "csv":
        lines = list(csv.DictReader(text.splitlines()))
        assert [line["verdict"] for line in lines].count("slower") == 2
    else:
        assert "2 of 4 slower" in text


def test_hostile_names_stay_text_in_every_format(tmp_path: Path) -> None:
    records = [record for name in HOSTILE for record in timed(name, 1.0)]
    for name in ("base", "later"):
        store(tmp_path, name, records)
    for form in ("table", "md", "csv"):
        done = call("compare", "base", "later", "--format", form, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert not any(sign in done.stdout for sign in "\x1b\x00\u202e")
        if form == "md":
            assert "<script>" not in done.stdout
    cells = {line["variant"] for line in csv.DictReader(done.stdout.splitlines())}
    assert not any(cell.startswith(tuple("=+-@")) for cell in cells)


def test_from_python_runs_are_given_as_objects_or_names(runs: Path) -> None:
    out = runs / "results"
    found = package.compare(package.Run(out / "base"), "later", metrics=["latency"], out=out)
    assert [pair.verdict for pair in found.pairs] == ["same", "same", "slower", "slower"]
    with pytest.raises(package.UsageError, match="--force"):
        package.compare("base", "other", out=out)
    assert package.compare("base", "other", force=True, out=out).differs
