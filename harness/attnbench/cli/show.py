"""`attnbench show`: a run's table again, or its rows in a format for other programs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnbench.cli.options import Json, Out, RunName
from attnbench.cli.streams import deliver, emit_json, warn_of_damage
from attnbench.contracts.errors import UsageError, suggestion
from attnbench.store import RESULTS

if TYPE_CHECKING:
    from attnbench.analysis.rows import Row


def show(
    run: RunName,
    metric: Annotated[
        str | None, typer.Option(help="Show these metrics, or all of a probe.", metavar="NAME,...")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="table, md, csv, latex, json or parquet; default: by the ending of -o, else table.",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write to a file.", metavar="FILE", show_default=False)
    ] = None,
    scaling: Annotated[
        bool,
        typer.Option("--scaling", help="Show how each variant grows, and where one overtakes another.", metavar=""),
    ] = False,
    environment: Annotated[
        bool,
        typer.Option("--environment", help="Show how to measure it again: code, protocol, machine.", metavar=""),
    ] = False,
    out: Out = RESULTS,
    json: Json = False,
) -> None:
    """Print a run's table again.

    Examples:
      attnbench show latest --metric latency -o latency.tex
      attnbench show latest --scaling
      attnbench show latest --environment
    """
    from attnbench.report.formats import BY_ENDING, FORMATS
    from attnbench.runs import Run
    from attnbench.store import find_run

    if environment:
        _describe(Run(find_run(run, out)).reproduction(), as_json=json)
        return
    chosen = "json" if json else form or BY_ENDING.get(output.suffix if output else "", "table")
    if chosen not in FORMATS:
        raise UsageError(f"--format: {chosen!r} is not one of {', '.join(FORMATS)}; {suggestion(chosen, FORMATS)}")
    stored = Run(find_run(run, out))
    warn_of_damage([stored])
    rows = stored.rows()
    if scaling:
        _show_scaling(rows, as_json=chosen == "json", alone=(metric, output) == (None, None) and form is None)
    else:
        _show_table(rows, _metrics(metric, rows) if metric else None, chosen, output)


def _show_table(rows: "list[Row]", metrics: list[str] | None, chosen: str, output: Path | None) -> None:
    from rich.console import Console

    from attnbench.answers.fit.table import blocks
    from attnbench.report.formats import OF_BLOCKS, OF_ROWS
    from attnbench.report.terminal import Ending, Tables

    if chosen == "table" and output is None:
        console = Console(highlight=False)
        console.print(Tables(blocks(rows, metrics)))
        if metrics is None:
            console.print(Ending(rows), end="")
    elif chosen in OF_BLOCKS:
        deliver(OF_BLOCKS[chosen](blocks(rows, metrics)), output)
    else:
        deliver(OF_ROWS[chosen]([row for row in rows if metrics is None or row.metric in metrics]), output)


def _metrics(text: str, rows: "list[Row]") -> list[str]:
    """Return the metrics that are named, those of a probe by its name. Raises UsageError."""
    known = dict.fromkeys(row.metric for row in rows)
    of_probes: dict[str, list[str]] = {}
    for row in rows:
        if row.primary:
            of_probes.setdefault(row.probe.kind, []).append(row.metric)
    chosen: list[str] = []
    for name in text.split(","):
        if name not in known and name not in of_probes:
            raise UsageError(f"--metric: this run has no {name!r}; {suggestion(name, [*known, *of_probes])}")
        chosen += [name] if name in known else of_probes[name]
    return list(dict.fromkeys(chosen))


def _describe(whole: dict[str, Any], *, as_json: bool) -> None:
    from attnbench.report.reproduction import sections
    from attnbench.report.text import paragraph

    if as_json:
        emit_json(whole)
    else:
        print("\n\n".join(map(paragraph, sections(whole))))


def _show_scaling(rows: "list[Row]", *, as_json: bool, alone: bool) -> None:
    from attnbench.analysis.crossover import crossovers
    from attnbench.analysis.scaling import growths
    from attnbench.report.axes import names_of
    from attnbench.report.growth import as_dict, listed

    if not alone:
        raise UsageError("--scaling: it is no table; leave --metric, --format and --output out (--json goes with it)")
    if as_json:
        emit_json({"scaling": growths(rows), "crossovers": [as_dict(each) for each in crossovers(rows)]})
    else:
        print(listed(rows, names_of(rows)))
