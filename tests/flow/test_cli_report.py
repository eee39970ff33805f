"""`attnbench report` on stored runs, as a user has it: what it writes, prints and refuses."""

import subprocess
import sys
from pathlib import Path

import pytest

import attnbench as package
from attnbench.store import Plan, Store
from flow.test_cli_compare import MACHINE, store
from helpers.command import attnbench, call
from helpers.stored import timed
from helpers.subtests import as_subtests
from unit.report.planted import failed, job, record, timings, value

LENGTHS = (512, 1024)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs that were measured, and one that has only been planned."""
    for name in ("first", "second"):
        store(tmp_path, name, [*timings("vanilla", LENGTHS), *timings("flash", LENGTHS)])
    planned = Plan.of((job(),), run="planned", created_s=0.0, command=("run",), sweep={}, environment=MACHINE)
    Store.create(tmp_path / "results", planned).close()
    return tmp_path


def test_a_report_is_one_file_whose_path_is_printed(runs: Path) -> None:
    done = attnbench("report", "first", "-o", "x.html", cwd=runs)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Report: x.html\n", "")
    text = (runs / "x.html").read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert "flash is the fastest from N = 512 to 1024" in text
    assert sorted(path.name for path in runs.iterdir()) == ["results", "x.html"]


def test_more_variants_than_a_figure_shows_at_one_length_and_figures_of_zero_make_a_report(tmp_path: Path) -> None:
    variants = [f"v{number}" for number in range(14)]
    times = [each for number, variant in enumerate(variants) for each in timed(variant, 1.0 + number, lengths=(512,))]
    counted = [record(job(variant, "memory"), value(0, "memory", "bytes")) for variant in variants]
    errors = [record(job(variant, "agreement"), value(0, "approximation_error", "1")) for variant in variants[:2]]
    store(tmp_path, "many", [*times, *counted, *errors])
    done = call("report", "many", "-o", "x.html", "--figures", "f", "--figure-formats", "svg", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "f" / "latency-forward.svg").exists()


def test_several_runs_are_shown_side_by_side_in_one_file_with_figures_in_a_folder(runs: Path) -> None:
    words = ("report", "first", "second", "--figures", "paper", "--figure-formats", "svg")
    done = call(*words, cwd=runs)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Report: report.html\nFigures: 2 files in paper\n"
    assert sorted(path.name for path in (runs / "paper").iterdir()) == ["latency-forward.svg", "tables.tex"]
    text = (runs / "report.html").read_text()
    assert "2 runs side by side" in text
    assert "second against first" in text


@as_subtests(
    "words, told",
    [
        (("nowhere",), "no run is called 'nowhere'"),
        (("first", "-o", "results"), "results is a folder; name a file in it"),
        (("first", "-o", "nowhere/x.html"), "nowhere/x.html cannot be written"),
        (("planned",), "run planned has no result yet; go on with it: attnbench run --resume planned"),
        (("first", "--figures", "x", "--figure-formats", "gif"), "'gif' is not one of svg, png, pdf"),
        ((), "Missing argument"),
    ],
)
def test_a_mistake_is_one_sentence_exits_with_2_and_writes_nothing(
    runs: Path, words: tuple[str, ...], told: str
) -> None:
    done = call("report", *words, cwd=runs)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert told in done.stderr
    assert [path.name for path in runs.iterdir()] == ["results"]


def test_a_report_that_cannot_be_written_leaves_the_one_before_it(runs: Path) -> None:
    (runs / "x.html").write_text("before")
    assert call("report", "planned", "-o", "x.html", cwd=runs).returncode == 2
    assert (runs / "x.html").read_text() == "before"


def test_a_run_whose_every_case_failed_has_a_report_of_reasons(tmp_path: Path) -> None:
    store(tmp_path, "failed", [failed(job("flash"), "crash", "it fell")])
    assert call("report", "failed", cwd=tmp_path).returncode == 0
    assert "1 crash" in (tmp_path / "report.html").read_text()


def test_help_has_an_example(runs: Path) -> None:
    done = call("report", "--help", cwd=runs)
    assert "attnbench report latest -o report.html" in done.stdout


def test_from_python_a_run_reports_itself_and_others_beside_it(runs: Path) -> None:
    first, second = (package.Run(runs / "results" / name) for name in ("first", "second"))
    first.report(runs / "both.html", second)
    assert "2 runs side by side" in (runs / "both.html").read_text()


def test_the_command_line_imports_plotting_libraries_only_to_draw() -> None:
    code = (
        "import attnbench.cli, attnbench.api, attnbench.report.files, sys\n"
        "print(sorted({'vl_convert', 'jinja2', 'pandas', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
