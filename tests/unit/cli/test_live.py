import io
import time
from pathlib import Path

import pytest
from msgspec.structs import replace
from rich.console import Console

from attnbench.cli.live import _Lines, _Screen, place, result
from attnbench.contracts.record import Measurement, Outcome, Record
from attnbench.execute.executor import Progressed, Started
from attnbench.session import Opened
from helpers.planted import job, ok, plan

RUN = "20260101-000000-aaaa"


def opened(jobs):
    return Opened(path=Path("results") / RUN, plan=plan(jobs), jobs=tuple(jobs))


def record(of, outcome):
    return Record(run=RUN, job=of, outcome=outcome, seconds=1.0)


def console(*, width=80, height=24):
    return Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)


def drawn(screen):
    """Return the lines of one frame."""
    with screen.console.capture() as taken:
        screen.console.print(screen)
    return taken.get().splitlines()


def test_lines_tell_each_record_with_its_number_and_figure_or_reason():
    page = console(width=200)
    shown = _Lines(page)
    first, second = job("a"), job("b")
    shown(opened([first, second]))
    shown(Started(job=first))
    shown(record(first, ok(1_500_000)))
    shown(record(second, Outcome(status="crash", detail="SIGSEGV")))
    assert page.file.getvalue().splitlines() == [
        f"run {RUN}: 2 jobs on , 2 threads, under 10 s",
        "[1/2] latency forward a seq 512 heads 8 round 1/5: 1.50 ms",
        "[2/2] latency forward b seq 512 heads 8 round 1/5: crash: SIGSEGV",
    ]


@pytest.mark.parametrize("shown_by", [_Lines, _Screen])
def test_names_and_reasons_reach_a_terminal_as_one_plain_line(shown_by):
    page = console(width=300)
    shown = shown_by(page)
    evil = job("x\x1b[2J\ny")
    shown(opened([evil, job("b")]))
    shown(Started(job=evil))
    shown(Progressed(job=evil, text="step\x07 1"))
    if shown_by is _Screen:
        written = "\n".join(drawn(shown))
        assert "x\\x1b[2J\\ny" in written
        assert "step\\x07 1" in written
    else:
        shown(record(evil, Outcome(status="error", detail="first\nsecond \x1b]0;title\x07")))
        written = page.file.getvalue()
        assert len(written.splitlines()) == 2
        assert "first\\nsecond \\x1b]0;title\\x07" in written
    assert not {"\x1b", "\x07"} & set(written)


def test_a_screen_says_what_it_does_before_the_run_is_open():
    assert drawn(_Screen(console())) == ["Inspecting machine and plugins..."]


def test_a_screen_shows_the_rows_so_far_what_runs_the_share_done_and_the_time():
    screen = _Screen(console())
    first, second = job("vanilla"), job("flash")
    screen(opened([first, second]))
    screen(Started(job=first))
    screen(record(first, ok(2_000_000)))
    screen(Started(job=second))
    screen(Progressed(job=second, text="warming up"))
    lines = drawn(screen)
    assert lines[0] == "Latency, forward (ms)"
    assert any(line.startswith("vanilla") and "2.00" in line for line in lines)
    assert lines[-2] == "  latency forward flash seq 512 heads 8 round 1/5  warming up"
    assert "[========........] 1/2 jobs" in lines[-1]
    assert lines[-1].endswith("under 10 s left")


def test_a_screen_never_draws_more_lines_than_the_terminal_has_and_keeps_the_bar():
    screen = _Screen(console(height=10))
    jobs = [job(f"v{number}") for number in range(30)]
    screen(opened([*jobs, job("a", kind="accuracy")]))
    for each in jobs:
        screen(Started(job=each))
    screen.made, screen.cost = float("-inf"), 0.0
    screen(record(jobs[0], ok()))
    lines = drawn(screen)
    assert len(lines) < 10
    assert "1/31 jobs" in lines[-1]
    assert lines[-2] == "  and 28 more beside it"


def test_a_table_taller_than_the_window_keeps_the_running_row_in_sight_and_says_how_much_it_leaves_out():
    screen = _Screen(console(height=12))
    jobs = [job(f"v{number}") for number in range(30)]
    screen(opened(jobs))
    screen(Started(job=jobs[0]))
    screen.made, screen.cost = float("-inf"), 0.0
    screen(record(jobs[0], ok()))
    screen(Started(job=jobs[17]))
    lines = drawn(screen)
    assert len(lines) == 11
    assert any(line.startswith("v17 ") for line in lines)
    assert any(line.endswith("more lines; the whole table comes at the end") for line in lines)


def test_a_long_run_says_before_it_starts_how_to_make_it_shorter_and_the_line_of_time_fits_80_columns():
    page = console(width=200)
    shown = _Lines(page)
    trainings = [replace(job("a", kind="accuracy"), round=number) for number in range(1, 1001)]
    shown(opened([job("a"), *trainings]))
    first, second = page.file.getvalue().splitlines()
    assert first.startswith(f"run {RUN}: 1001 jobs on ")
    assert "make it shorter with --metrics latency (less " in second
    assert second.endswith(", fewer lengths or fewer variants")
    screen = _Screen(console())
    screen(opened(trainings))
    screen.progress._started -= 100 * 3600
    assert len(drawn(screen)[-1]) <= 80
    assert drawn(screen)[-1].endswith(" left")


def test_a_long_line_is_cut_at_the_terminal_s_edge_and_not_folded():
    screen = _Screen(console(width=40))
    running = job("a" * 100)
    screen(opened([running]))
    screen(Started(job=running))
    assert [len(line) <= 40 for line in drawn(screen)] == [True, True]


def test_a_screen_that_is_over_draws_nothing_so_that_no_trace_stays():
    screen = _Screen(console())
    with screen:
        screen(opened([job()]))
        assert drawn(screen)
    assert drawn(screen) == []
    written = screen.console.file.getvalue()
    assert written.endswith("...\r\x1b[2K\x1b[?25h\r")  # its one line erased, the cursor shown and where it was before


def test_a_table_is_not_made_again_if_that_takes_a_large_share_of_the_time():
    screen = _Screen(console())
    first, second = job("vanilla"), job("flash")
    screen(opened([first, second]))
    screen(record(first, ok()))
    kept, screen.cost = screen.table, 1e6
    screen(record(second, ok()))
    assert screen.table is kept


def test_a_run_is_named_with_its_folder_where_that_is_not_the_usual_one():
    assert place(Path("results") / RUN) == RUN
    assert place(Path("/some where") / RUN) == f"{RUN} --out '/some where'"


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (Outcome(status="timeout"), "timeout"),
        (Outcome(status="ok"), "it measured nothing"),
        (Outcome(status="ok", measurements=(Measurement(metric="m", unit="1", values=(None,)),)), "not finite"),
        (Outcome(status="ok", measurements=(Measurement(metric="m", unit="bytes", values=(2048,)),)), "2.00 KiB"),
    ],
)
def test_a_result_is_its_first_figure_or_why_there_is_none(outcome, told):
    assert result(record(job(), outcome)) == told


def test_a_log_says_what_slow_plugins_hold_up_and_nothing_of_quick_ones(monkeypatch):
    monkeypatch.setattr("attnbench.cli.live._SLOW_S", 0.05)
    slow, quick = _Lines(console()), _Lines(console())
    with slow:
        time.sleep(0.2)
    with quick:
        pass
    time.sleep(0.1)
    assert (slow.console.file.getvalue(), quick.console.file.getvalue()) == ("Inspecting machine and plugins...\n", "")
