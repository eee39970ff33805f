"""The files of a report: the page, and figures and tables for papers. Each is written whole or not at all."""

from collections.abc import Collection, Iterator
from pathlib import Path

from attnbench.contracts.errors import UsageError
from attnbench.contracts.record import PENDING
from attnbench.report.html import figures, page
from attnbench.report.images import images
from attnbench.report.latex import latex
from attnbench.report.reported import Report
from attnbench.report.summary import blocks
from attnbench.report.vega import chart
from attnbench.store.files import write_output

TABLES = "tables.tex"


def write_page(report: Report, path: Path) -> None:
    """Write a report as one HTML file.

    Raises UsageError where a run has no result yet, or the file cannot be written.
    """
    for run in report.runs:
        if all(row.detail == PENDING for row in run.rows):
            raise UsageError(f"run {run.run} has no result yet; go on with it: attnbench run --resume {run.run}")
    if path.is_dir():
        raise UsageError(f"--output: {path} is a folder; name a file in it, as {path / 'report.html'}")
    try:
        write_output(path, page(report).encode())
    except OSError as error:
        raise UsageError(f"--output: {path} cannot be written ({error.strerror}); name another file") from None


def write_figures(report: Report, folder: Path, formats: Collection[str]) -> list[Path]:
    """Write every figure in each format, and all tables as LaTeX, into a folder; return the files' paths.

    The folder is created if need be. Raises UsageError where the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for name, data in _files(report, formats):
            write_output(folder / name, data)
            written.append(folder / name)
    except OSError as error:
        raise UsageError(f"--figures: {folder} cannot be written ({error.strerror}); name another folder") from None
    return written


def _files(report: Report, formats: Collection[str]) -> Iterator[tuple[str, bytes]]:
    yield TABLES, latex(blocks([row for run in report.runs for row in run.rows])).encode()
    for figure in figures(report):
        for form, data in images(chart(figure, several=report.several), formats).items():
            yield f"{figure.name}.{form}", data
