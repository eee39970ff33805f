"""Rows as CSV (RFC 4180) that a spreadsheet can open without running a cell."""

import csv
import io
from collections.abc import Sequence

from msgspec import Struct

from attnbench.analysis.rows import Row
from attnbench.contracts.text import plain
from attnbench.report.flat import Cell, columns, flat

FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")  # what OWASP lists under CSV injection


def to_csv(rows: Sequence[Struct], *, of: type[Struct] = Row) -> str:
    """Write rows (or comparisons) under a heading; null is an empty cell, what does not print is written as an escape.

    Text that a spreadsheet would take for a formula has an apostrophe before it; numbers stay numbers.
    """
    target = io.StringIO()
    writer = csv.writer(target)
    writer.writerow(columns(of))
    writer.writerows([_written(cell) for cell in flat(row)] for row in rows)
    return target.getvalue()


def _written(cell: Cell) -> Cell:
    match cell:
        case bool():
            return str(cell).lower()
        case str():
            return f"'{plain(cell)}" if cell.startswith(FORMULA) else plain(cell)
        case _:
            return cell
