"""`attnbench tune`: the cheapest options that reach a quality, and the speed there."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from msgspec.structs import replace

from attnbench.cli.flags import Only
from attnbench.cli.options import MACHINE, NEEDS, WHERE, WORKLOAD, Json, Out, option
from attnbench.cli.streams import emit_json
from attnbench.contracts.errors import UsageError
from attnbench.contracts.flags import MEASURE, SWEEP
from attnbench.contracts.suite import USUAL, overlay
from attnbench.planning.request import Request
from attnbench.store import RESULTS


def tune(
    *,
    variants: Annotated[
        str | None,
        typer.Argument(metavar="VARIANT,...", help="Variants to tune; options given stay.", show_default=False),
    ] = None,
    match: Annotated[float | None, option("Largest approximation error to accept.", "X", panel=NEEDS)] = None,
    match_accuracy: Annotated[float | None, option("Lowest accuracy on --task to accept.", "X", panel=NEEDS)] = None,
    task: Annotated[str | None, option("Task of --match-accuracy: mqar:preset=tiny", "NAME", panel=NEEDS)] = None,
    option_values: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            help="Values of an option in place of its own: k=64..1024",
            metavar="NAME=VALUES",
            rich_help_panel=SWEEP,
            show_default=False,
        ),
    ] = None,
    seq: Annotated[str, option("Sequence length: 8192 or 8k; default: 2048.", "N", panel=SWEEP)] = "2048",
    against: Annotated[str, option("Variant to compare speed with; default: flash.", "NAME", panel=MEASURE)] = "flash",
    request: Annotated[Request, Only((*WORKLOAD, *MACHINE, "rounds", "timeout_s", "seed"))],
    out: Out = RESULTS,
    resume: Annotated[str | None, option("Resume a search, as it was started.", "RUN", panel=WHERE)] = None,
    json: Json = False,
) -> None:
    """Find the cheapest options that reach a quality, and the speed there: mechanisms at equal quality.

    Exits with 1 if no variant reaches it. The run is stored; --resume continues one, or shows it again.

    Examples:
      attnbench tune linformer,reformer --match 0.05 --seq 2048
      attnbench tune window --match 0.01 --option width=64..1024
      attnbench tune linformer --task mqar --match-accuracy 0.9
    """
    from attnbench import api
    from attnbench.answers.tune import tuning
    from attnbench.cli.live import display

    if (resume is None) == (variants is None):
        raise UsageError("tune: name variants to begin with, or --resume RUN alone to go on; one of the two")
    if resume is not None:
        with display() as notify:
            run = api.resume(resume, out=out, notify=notify).path
    else:
        values = tuning.read_values(option_values or ())
        goal = tuning.Goal(error=match, accuracy=match_accuracy, values=values, against=against)
        sweep = overlay(replace(USUAL, seq=seq), replace(request.sweep, variants=variants, tasks=task))
        asked = replace(request, sweep=sweep, command=tuple(sys.argv[1:]))
        with display() as notify:
            run = tuning.tune(asked, goal, out, notify=notify)
    _conclude(run, as_json=json)


def _conclude(run: Path, *, as_json: bool) -> None:
    from rich.console import Console

    from attnbench.answers.tune import tuning
    from attnbench.answers.tune.text import Report
    from attnbench.contracts.text import plain

    answer = tuning.answer(run)
    if as_json:
        emit_json(answer)
    else:
        Console(highlight=False).print(Report(answer.found, answer.search))
    print(plain(f"Results: {run}  (again: attnbench tune --resume {run.name})"), file=sys.stderr)
    if not any(each.best for each in answer.found):
        raise typer.Exit(1)
