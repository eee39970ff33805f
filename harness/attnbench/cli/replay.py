"""`attnbench replay`: a paper's table on this machine, beside the published figures."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec.structs import replace

from attnbench.cli.flags import Only, refuse
from attnbench.cli.options import MACHINE, Json, Out
from attnbench.cli.streams import emit_json
from attnbench.contracts.errors import UsageError
from attnbench.contracts.text import plain
from attnbench.planning.request import Request
from attnbench.store import RESULTS

if TYPE_CHECKING:
    from attnbench.answers.replay.beside import Replay

_PRESET = "tiny"


def replay(
    *,
    context: typer.Context,
    paper: Annotated[
        str, typer.Argument(metavar="PAPER", help="lra, mqar, fa1, or what a package adds.", show_default=False)
    ],
    run: Annotated[
        str | None,
        typer.Option("--run", help="Print from this stored run, and run nothing.", metavar="RUN", show_default=False),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Size of the tasks: tiny, small or paper (or nearly the paper's); default: tiny.",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    request: Annotated[Request, Only(("seq", *MACHINE, "rounds", "time_budget"))],
    out: Out = RESULTS,
    json: Json = False,
) -> None:
    """Repeat a paper's table on this machine, and print it beside the published figures.

    Examples:
      attnbench replay fa1 --seq 128..2048 --time-budget 30m
      attnbench replay lra --preset tiny
      attnbench replay fa1 --run latest --json
    """
    from attnbench import api
    from attnbench.answers.replay import replays
    from attnbench.cli.live import display, place
    from attnbench.store import find_run

    installed = replays.find_paper(paper)
    if preset is not None and not installed.tasks:
        raise UsageError(f"--preset: {paper} trains nothing; leave it out")
    if run is not None:
        mistake = "{flag}: --run prints a stored run as it is; leave {flag} out"
        refuse(context, mistake, besides=("--run", "--out", "--json"))
        _show(replays.beside(installed, find_run(run, out), without=replays.absent(installed)), as_json=json)
        return
    without = replays.lacking(installed, preset or _PRESET)
    sweep = replays.sweep_of(installed, preset or _PRESET, request.sweep.seq, without=without)
    asked = replace(
        request,
        suite=installed.paper.suite,
        sweep=sweep,
        command=tuple(sys.argv[1:]),
        roles=replays.roles_of(installed),
    )
    with display() as notify:
        path = api.measure(asked, out, notify).path
    _show(replays.beside(installed, path, without=without), as_json=json)
    again = f"attnbench replay {paper} --run {place(path)}"
    print(plain(f"Results: {path}  (again: {again})"), file=sys.stderr)


def _show(table: "Replay", *, as_json: bool) -> None:
    from rich.console import Console

    from attnbench.answers.replay.beside import as_dict
    from attnbench.answers.replay.text import printable

    if as_json:
        emit_json(as_dict(table))
    else:
        Console(highlight=False).print(printable(table))
