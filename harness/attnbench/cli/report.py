"""`attnbench report`: one or several runs as one HTML file that opens anywhere, and its figures as files for papers."""

from pathlib import Path
from typing import Annotated

import typer

from attnbench.cli.options import Out
from attnbench.cli.streams import warn_of_damage
from attnbench.contracts.errors import UsageError, suggestion
from attnbench.contracts.text import plain
from attnbench.store import RESULTS, find_run


def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN", help="Runs: an id, the beginning of one, a path, or `latest`.", show_default=False
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.", metavar="FILE")] = Path(
        "report.html"
    ),
    figures: Annotated[
        Path | None,
        typer.Option(
            help="Write every figure to this folder too, and the tables as LaTeX.", metavar="DIR", show_default=False
        ),
    ] = None,
    figure_formats: Annotated[
        str, typer.Option(help="Of the figures in --figures: svg, png, pdf.", metavar="NAME,...")
    ] = "svg,png,pdf",
    out: Out = RESULTS,
) -> None:
    """Write what runs show, and why, as one HTML file that needs no network.

    Examples:
      attnbench report latest -o report.html
      attnbench report 20261121 20261122 -o both.html
      attnbench report latest --figures paper --figure-formats pdf
    """
    from attnbench.report.files import write_figures, write_page
    from attnbench.report.images import FORMATS
    from attnbench.report.reported import Report
    from attnbench.runs import Run

    formats = figure_formats.split(",")
    for name in formats:
        if name not in FORMATS:
            known = ", ".join(FORMATS)
            raise UsageError(f"--figure-formats: {name!r} is not one of {known}; {suggestion(name, FORMATS)}")
    stored = [Run(find_run(name, out)) for name in runs]
    warn_of_damage(stored)
    told = Report([run.reported() for run in stored])
    write_page(told, output)
    print(f"Report: {plain(str(output))}")
    if figures is not None:
        written = write_figures(told, figures, formats)
        print(f"Figures: {len(written)} files in {plain(str(figures))}")
