"""`attnbench compare`: two runs, or two variants, case by case; with `--fail-on` an exit code for it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnbench.cli.options import Json, Out
from attnbench.cli.streams import deliver, warn_of_damage
from attnbench.contracts.errors import UsageError, suggestion
from attnbench.contracts.text import plain
from attnbench.store import RESULTS, find_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attnbench.analysis.compare import Comparison, Comparisons
    from attnbench.analysis.conditions import Condition

_MOST_NAMED = 3


def compare(
    base: Annotated[
        str, typer.Argument(metavar="BASE", help="A run: its id, the beginning of one, its path, or `latest`.")
    ],
    new: Annotated[
        str | None, typer.Argument(metavar="NEW", help="Another run. Without it: BASE.", show_default=False)
    ] = None,
    variants: Annotated[
        str | None,
        typer.Option(help="Compare OLD of BASE with NEW of NEW: vanilla,linformer:k=256", metavar="OLD,NEW"),
    ] = None,
    metric: Annotated[str | None, typer.Option(help="Compare these metrics only.", metavar="NAME,...")] = None,
    fail_on: Annotated[
        str | None,
        typer.Option(
            help="Exit with 1 where there is one: slower, slower:5%, higher, incomparable, ...", metavar="VERDICT,..."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Compare runs that were not measured alike.", metavar="")
    ] = False,
    form: Annotated[str, typer.Option("--format", help="table, md, csv or json.", metavar="NAME")] = "table",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write to a file.", metavar="FILE", show_default=False)
    ] = None,
    out: Out = RESULTS,
    json: Json = False,
) -> None:
    """Compare two runs case by case, or two variants of one, with intervals and verdicts.

    Examples:
      attnbench compare 20261121 latest --fail-on slower:5%
      attnbench compare latest --variants vanilla,linformer:k=256
    """
    from attnbench import api
    from attnbench.analysis.conditions import read_conditions
    from attnbench.report.comparison import FORMATS
    from attnbench.runs import Run

    chosen = "json" if json else form
    if chosen not in FORMATS:
        raise UsageError(f"--format: {form!r} is not one of {', '.join(FORMATS)}; {suggestion(form, FORMATS)}")
    conditions = read_conditions(fail_on, flag="--fail-on") if fail_on is not None else ()
    warn_of_damage(Run(find_run(name, out)) for name in (base, new) if name)
    found = api.compare(base, new, variants=variants, metrics=metric, force=force, out=out)
    if chosen == "table" and output is None:
        _print(found)
    else:
        deliver(FORMATS[chosen](found), output)
    if found.differs:
        _say(f"--force: not measured alike: {', '.join(found.differs)}")
    _hold(found.pairs, conditions)


def _print(found: "Comparisons") -> None:
    from rich.console import Console

    from attnbench.report.comparison import printable

    Console(highlight=False).print(printable(found))


def _hold(pairs: "Sequence[Comparison]", conditions: "Sequence[Condition]") -> None:
    """Exit with 1 if a comparison meets a condition; warn if no comparison reached a verdict at all."""
    from attnbench.analysis.conditions import violations
    from attnbench.report.comparison import label

    broken = violations(pairs, conditions)
    if broken:
        named = [f"{label(pair)} is {pair.verdict}{_by(pair)}" for pair in broken[:_MOST_NAMED]]
        more = f", and {len(broken) - _MOST_NAMED} more" if len(broken) > _MOST_NAMED else ""
        _say(f"--fail-on: {len(broken)} of {len(pairs)}: {', '.join(named)}{more}")
        raise typer.Exit(1)
    if conditions and all(pair.verdict in ("inconclusive", "incomparable") for pair in pairs):
        _say("--fail-on: nothing was decided, so nothing failed: no comparison has a verdict")


def _by(pair: "Comparison") -> str:
    return f" (x{pair.ratio:.3f})" if pair.ratio is not None else ""


def _say(sentence: str) -> None:
    print(f"attnbench: {plain(sentence)}", file=sys.stderr)
