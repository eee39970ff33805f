"""The formats in which rows are written, by name: tables for people, tidy rows for programs; one renderer a file."""

import io
from collections.abc import Callable, Collection, Sequence

from rich.console import Console

from attnbench.analysis.rows import Row
from attnbench.answers.fit.table import blocks
from attnbench.report.csv import to_csv
from attnbench.report.json import to_json
from attnbench.report.latex import latex
from attnbench.report.markdown import markdown
from attnbench.report.terminal import Tables

Metrics = Collection[str] | None
_FILE_WIDTH = 120


def rendered(rows: Sequence[Row], form: str, metrics: Metrics = None) -> str | bytes:
    """Write rows in a format: bytes for Parquet, text for all others. Tables hold the primary metrics unless told."""
    return FORMATS[form](rows, metrics)


def _table(rows: Sequence[Row], metrics: Metrics) -> str:
    page = io.StringIO()
    Console(file=page, width=_FILE_WIDTH).print(Tables(blocks(rows, metrics)))
    return page.getvalue()


def _markdown(rows: Sequence[Row], metrics: Metrics) -> str:
    return markdown(blocks(rows, metrics))


def _latex(rows: Sequence[Row], metrics: Metrics) -> str:
    return latex(blocks(rows, metrics))


def _csv(rows: Sequence[Row], metrics: Metrics) -> str:
    return to_csv(_of(rows, metrics))


def _json(rows: Sequence[Row], metrics: Metrics) -> str:
    return to_json(_of(rows, metrics))


def _parquet(rows: Sequence[Row], metrics: Metrics) -> bytes:
    from attnbench.report.frame import to_parquet  # pandas takes 0.3 s

    return to_parquet(_of(rows, metrics))


def _of(rows: Sequence[Row], metrics: Metrics) -> list[Row]:
    return [row for row in rows if metrics is None or row.metric in metrics]


FORMATS: dict[str, Callable[[Sequence[Row], Metrics], str | bytes]] = {
    "table": _table,
    "md": _markdown,
    "csv": _csv,
    "latex": _latex,
    "json": _json,
    "parquet": _parquet,
}
