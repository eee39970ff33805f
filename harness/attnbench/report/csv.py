"""Rows as CSV (RFC 4180) that a spreadsheet can open without running a cell."""

import csv
import io
from collections.abc import Sequence

from attnbench.analysis.compare import Comparison
from attnbench.analysis.rows import Row
from attnbench.contracts.text import plain
from attnbench.report.flat import Value, columns

FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")  # the first characters that OWASP lists under CSV injection


def to_csv(rows: Sequence[Row] | Sequence[Comparison], *, of: type[Row | Comparison] = Row) -> str:
    """Render rows (or comparisons) under a heading; null is an empty cell, unprintable characters are escaped.

    Text that a spreadsheet would take for a formula has an apostrophe in front; numbers stay numbers.
    """
    target = io.StringIO()
    writer = csv.writer(target)
    writer.writerow(column.name for column in columns(of))
    by_column = [column.values(rows) for column in columns(of)]
    writer.writerows([_cell(value) for value in line] for line in zip(*by_column, strict=True))
    return target.getvalue()


def _cell(value: Value) -> Value:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f"'{plain(value)}" if value.startswith(FORMULA) else plain(value)
        case _:
            return value
