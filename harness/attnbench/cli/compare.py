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
            help="Exit with 1 for a verdict, or a new failure: slower, slower:5%, higher, undecided, ...",
            metavar="VERDICT,...",
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
    first, second = Run(find_run(base, out)), Run(find_run(new, out)) if new else None
    warn_of_damage((first, second) if second else (first,))
    found = api.compare(first, second, variants=variants, metrics=metric, force=force, out=out)
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
    """Exit with 1 if a comparison meets a condition, or fails where the base does not; warn of what was not decided."""
    from attnbench.analysis.conditions import UNDECIDED, is_undecided, violations
    from attnbench.report.comparison import label
    from attnbench.report.text import few

    if not conditions:
        return
    broken, verdicts = violations(pairs, conditions), {condition.verdict for condition in conditions}
    failed = [pair for pair in pairs if pair.has_newly_failed and pair.verdict not in verdicts]
    named = [f"{label(pair)} is {pair.verdict}{_by(pair)}" for pair in broken]
    named += [f"{label(pair)} has no value any more ({pair.why})" for pair in failed]
    undecided = is_undecided(pairs, conditions)
    if undecided:
        _say("--fail-on: nothing was decided: no comparison has a verdict")
    elif lacking := sum(pair.verdict == "incomparable" for pair in pairs) - len(failed):
        _say(f"--fail-on: {lacking} of {len(pairs)} could not be compared; the table says why")
    if named:
        _say(f"--fail-on: {len(named)} of {len(pairs)}: {few(named, _MOST_NAMED)}")
    if named or (undecided and UNDECIDED in verdicts):
        raise typer.Exit(1)


def _by(pair: "Comparison") -> str:
    return f" (x{pair.ratio:.3f})" if pair.ratio is not None else ""


def _say(sentence: str) -> None:
    print(f"attnbench: {plain(sentence)}", file=sys.stderr)
