"""`attnbench replay`: a paper's table on this machine, beside the published figures."""

import shutil
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, cast

import typer

from attnbench.cli import flags
from attnbench.cli.options import Json, Out
from attnbench.cli.streams import emit_json
from attnbench.contracts.errors import UsageError
from attnbench.contracts.text import plain
from attnbench.store import RESULTS

if TYPE_CHECKING:
    from attnbench.answers.replay.beside import Replay
    from attnbench.contracts.record import Profile

_PRESET = "tiny"


def replay(
    paper: Annotated[
        str, typer.Argument(metavar="PAPER", help="lra, mqar, fa1, or what a package adds.", show_default=False)
    ],
    run: Annotated[
        str | None,
        typer.Option("--run", help="Print from this stored run, and run nothing.", metavar="RUN", show_default=False),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="Size of the tasks: tiny (default), small, paper.", metavar="NAME", show_default=False),
    ] = None,
    seq: flags.Seq = None,
    device: flags.Device = None,
    threads: flags.Threads = None,
    profile: flags.Profile = None,
    rounds: flags.Rounds = None,
    time_budget: flags.TimeBudget = None,
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
    from attnbench.measure.processor import cores
    from attnbench.planning.request import Request
    from attnbench.store import find_run

    found = replays.find_paper(paper)
    if preset is not None and not found.tasks:
        raise UsageError(f"--preset: {paper} trains nothing; leave it out")
    if run is not None:
        given = {"preset": preset, "seq": seq, "device": device, "threads": threads, "profile": profile}
        _refuse_beside_run(given | {"rounds": rounds, "time_budget": time_budget})
        stored = find_run(run, out)
        _show(replays.beside(found, stored, without=replays.absent(found)), as_json=json)
        return
    without = replays.lacking(found, preset or _PRESET)
    request = Request(
        threads=cores() if threads is None else threads,
        suite=found.paper.suite,
        sweep=replays.sweep_of(found, preset or _PRESET, seq, without=without),
        device=device or "auto",
        profile=cast("Profile", profile or "default"),  # `session.start` refuses any other
        rounds=rounds,
        time_budget=time_budget,
        command=tuple(sys.argv[1:]),
    )
    with display() as notify:
        made = api.measure(request, out, notify).path
    _show(replays.beside(found, made, without=without), as_json=json)
    again = f"attnbench replay {paper} --run {place(made)}"
    print(plain(f"Results: {made}  (again: {again})"), file=sys.stderr)


def _refuse_beside_run(given: Mapping[str, object]) -> None:
    for name, value in given.items():
        if value is not None:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag}: --run prints a stored run as it is; leave {flag} out")


def _show(found: "Replay", *, as_json: bool) -> None:
    from rich.console import Console

    from attnbench.answers.replay.beside import as_dict
    from attnbench.answers.replay.text import blocks, headline, set_up, wrapped
    from attnbench.report.terminal import Tables

    if as_json:
        emit_json(as_dict(found))
        return
    width = shutil.get_terminal_size().columns
    print(wrapped(headline(found), width) + "\n")
    Console(highlight=False).print(Tables(blocks(found)))
    if told := set_up(found):
        print("\n" + wrapped(told, width))
