"""The formats of a run, by name: tables for people, tidy rows for programs."""

import io
from collections.abc import Callable, Sequence

from rich.console import Console

from attnbench.analysis.rows import Row
from attnbench.report.csv import to_csv
from attnbench.report.flat import to_json
from attnbench.report.latex import latex
from attnbench.report.markdown import markdown
from attnbench.report.table import Block
from attnbench.report.terminal import Tables

_FILE_WIDTH = 120


def _table(blocks: Sequence[Block]) -> str:
    page = io.StringIO()
    Console(file=page, width=_FILE_WIDTH).print(Tables(blocks))
    return page.getvalue()


def _parquet(rows: Sequence[Row]) -> bytes:
    from attnbench.report.frame import to_parquet  # pandas takes 0.3 s

    return to_parquet(rows)


OF_BLOCKS: dict[str, Callable[[Sequence[Block]], str]] = {"table": _table, "md": markdown, "latex": latex}
OF_ROWS: dict[str, Callable[[Sequence[Row]], str | bytes]] = {"csv": to_csv, "json": to_json, "parquet": _parquet}
FORMATS = ("table", "md", "csv", "latex", "json", "parquet")
