"""Rows as CSV (RFC 4180) that a spreadsheet can open without running a cell."""

import csv
import io
from collections.abc import Sequence

from attnbench.analysis.compare import Comparison
from attnbench.analysis.rows import Row
from attnbench.contracts.text import plain
from attnbench.report.flat import Cell, columns

FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")  # what OWASP lists under CSV injection


def to_csv(rows: Sequence[Row] | Sequence[Comparison], *, of: type[Row | Comparison] = Row) -> str:
    """Return rows (or comparisons) under a heading; null is an empty cell, unprintable characters are escaped.

    Text that a spreadsheet would take for a formula gets an apostrophe in front; numbers stay numbers.
    """
    target = io.StringIO()
    writer = csv.writer(target)
    writer.writerow(column.name for column in columns(of))
    cells = [column.cells(rows) for column in columns(of)]
    writer.writerows([_written(cell) for cell in line] for line in zip(*cells, strict=True))
    return target.getvalue()


def _written(cell: Cell) -> Cell:
    match cell:
        case bool():
            return str(cell).lower()
        case str():
            return f"'{plain(cell)}" if cell.startswith(FORMULA) else plain(cell)
        case _:
            return cell
