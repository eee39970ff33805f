"""The work of `attnbench run`: start or resume a run with a live display, and print its table."""

import sys
from pathlib import Path

import typer
from msgspec import Struct
from rich.console import Console

from attnbench import api
from attnbench.analysis.rows import Row
from attnbench.answers.fit.table import blocks
from attnbench.cli.forecast import forecast
from attnbench.cli.live import display, place
from attnbench.cli.streams import emit, emit_json
from attnbench.contracts.record import Status
from attnbench.contracts.text import plain
from attnbench.planning.request import Request
from attnbench.report.flat import to_json
from attnbench.report.terminal import Ending, Tables
from attnbench.runs import Run

_FINE: tuple[Status, ...] = ("ok", "unsupported")
_LEAKS = {"later_tokens", "hidden_tokens"}  # flags of an output that depends on what its mask hides


class Showing(Struct, frozen=True, kw_only=True):
    """How the end of a run is printed, and whether a failed case fails the command."""

    strict: bool
    as_json: bool


def start(request: Request, out: Path, *, show: Showing) -> None:
    """Measure a request and print its table."""
    with display() as notify:
        run = api.measure(request, out, notify)
    _conclude(run, show)


def foretell(request: Request, *, as_json: bool) -> None:
    """Print what a request would take, and measure nothing."""
    planned = api.plan(request)
    foretold = forecast(planned, planned.jobs)
    if as_json:
        emit_json(foretold)
        return
    for line in foretold.lines():
        print(plain(line))


def resume(name: str, out: Path, *, retry_failed: bool, show: Showing) -> None:
    """Measure what a run still lacks and print its whole table."""
    with display() as notify:
        run = api.resume(name, retry_failed=retry_failed, out=out, notify=notify)
    _conclude(run, show)


def _conclude(run: Run, show: Showing) -> None:
    rows = run.rows()
    if show.as_json:
        emit(to_json(rows))
    else:
        Console(highlight=False).print(Tables(blocks(rows)))
        print(flush=True)
    print(plain(run.spent().sentence()), file=sys.stderr)
    print(plain(f"Results: {run.path}  (again: attnbench show {place(run.path)})"), file=sys.stderr)
    if not show.as_json:
        Console(highlight=False).print(Ending(rows), end="")
    if show.strict and not all(map(_is_sound, rows)):
        raise typer.Exit(1)


def _is_sound(row: Row) -> bool:
    """Return whether a case did not fail, and its output depends on no token that the mask hides."""
    return row.status in _FINE and not _LEAKS & {*row.flags}
