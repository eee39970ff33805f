"""The formats of a run, by name: tables for people, tidy rows for programs."""

from collections.abc import Callable, Sequence

from attnbench.analysis.rows import Row
from attnbench.report.csv import to_csv
from attnbench.report.flat import to_json
from attnbench.report.latex import latex
from attnbench.report.markdown import markdown
from attnbench.report.table import Block
from attnbench.report.terminal import Tables, as_text


def _parquet(rows: Sequence[Row]) -> bytes:
    from attnbench.report.frame import to_parquet  # pandas takes 0.3 s

    return to_parquet(rows)


OF_BLOCKS: dict[str, Callable[[Sequence[Block]], str]] = {
    "table": lambda blocks: as_text(Tables(blocks)),
    "md": markdown,
    "latex": latex,
}
OF_ROWS: dict[str, Callable[[Sequence[Row]], str | bytes]] = {"csv": to_csv, "json": to_json, "parquet": _parquet}
BY_ENDING = {".txt": "table", ".md": "md", ".csv": "csv", ".tex": "latex", ".json": "json", ".parquet": "parquet"}
FORMATS = ("table", "md", "csv", "latex", "json", "parquet")
