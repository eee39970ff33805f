"""`attnbench show`: a run's table again, or its rows in a format for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from attnbench.cli.options import Json, Out, RunName
from attnbench.cli.streams import deliver
from attnbench.errors import UsageError, suggestion
from attnbench.store import RESULTS


def show(
    run: RunName,
    metric: Annotated[str | None, typer.Option(help="Show these metrics only.", metavar="NAME,...")] = None,
    form: Annotated[
        str, typer.Option("--format", help="table, md, csv, latex, json or parquet.", metavar="NAME")
    ] = "table",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write to a file.", metavar="FILE", show_default=False)
    ] = None,
    out: Out = RESULTS,
    json: Json = False,
) -> None:
    """Print a run's table again.

    Example:
      attnbench show latest --metric latency --format latex -o latency.tex
    """
    from rich.console import Console

    from attnbench.api import Run
    from attnbench.report.formats import FORMATS, rendered
    from attnbench.report.table import tables
    from attnbench.report.terminal import Tables
    from attnbench.store import find_run

    chosen = "json" if json else form
    if chosen not in FORMATS:
        raise UsageError(f"--format: {form!r} is not one of {', '.join(FORMATS)}; {suggestion(form, FORMATS)}")
    rows = Run(find_run(run, out)).rows()
    metrics = metric.split(",") if metric else None
    known = {row.metric for row in rows}
    for name in metrics or ():
        if name not in known:
            raise UsageError(f"--metric: this run has no {name!r}; {suggestion(name, known)}")
    if chosen == "table" and output is None:
        Console(highlight=False).print(Tables(tables(rows, metrics)))
    else:
        deliver(rendered(rows, chosen, metrics), output)
