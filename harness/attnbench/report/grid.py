"""A block as a grid of equal-width text: columns aligned on the decimal point, words laid across where they must be.

Knows widths and no colours; lengths are counted in terminal cells.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

import msgspec
from msgspec import Struct
from rich.cells import cell_len

from attnbench.report.table import Block, Cell

GAP = 2
_STAR = "*"
_FILL = "-"


class Span(Struct, frozen=True):
    """A piece of a line, and the cell whose emphasis it has (none for padding)."""

    text: str
    cell: Cell | None = None


class Style(Struct, frozen=True, kw_only=True):
    """What is shown beside a number: its interval, and a star for the best where bold is not to be had."""

    margins: bool
    stars: bool
    sign: str = "+-"


class Column(Struct, frozen=True, kw_only=True):
    """Widths within a column: digits before the point, the rest of the number with its marks, its interval; and all."""

    before: int
    after: int
    margin: int
    width: int


def measure(block: Block, places: Sequence[int], *, style: Style) -> list[Column]:
    """Find the widths of some of a block's columns when they stand side by side."""
    columns = [_column(block, place, style) for place in places]
    for cells in _rows(block, places):
        start = 0
        for run in _runs(cells, columns):
            end = start + len(run)
            lacking = cell_len(run[0].text) - span_width(columns[start:end])
            if lacking > 0:
                last = columns[end - 1]
                columns[end - 1] = msgspec.structs.replace(last, width=last.width + lacking)
            start = end
    return columns


def line(cells: Sequence[Cell], columns: Sequence[Column], *, style: Style) -> Iterator[Span]:
    """Lay a line's cells out in their columns."""
    start = 0
    for run in _runs(cells, columns):
        end = start + len(run)
        yield Span(" " * GAP)
        text = _number(run[0], columns[start], style) if run[0].number else run[0].text
        width = span_width(columns[start:end])
        yield Span(_across(text, width) if len(run) > 1 else right(text, width), run[0])
        start = end


def span_width(columns: Sequence[Column]) -> int:
    """Count the cells from the first of some columns to the last, gaps between them included."""
    return sum(column.width for column in columns) + GAP * (len(columns) - 1)


def right(text: str, width: int) -> str:
    """Push text to the right of a width."""
    return " " * (width - cell_len(text)) + text


def _across(text: str, width: int) -> str:
    """Lay a word over several columns, with dashes to either side where there is room."""
    room = width - cell_len(text) - 2
    return f"{_FILL * (room // 2)} {text} {_FILL * (room - room // 2)}" if room > 1 else right(text, width)


def _runs(cells: Sequence[Cell], columns: Sequence[Column]) -> Iterator[list[Cell]]:
    """Split a line into cells, equal neighbouring words that do not all fit their columns taken together."""
    for (text, number), group in groupby(enumerate(cells), key=lambda item: (item[1].text, item[1].number)):
        run = list(group)
        fits = all(cell_len(text) <= columns[place].width for place, _ in run)
        if number or fits or not text:
            yield from ([cell] for _, cell in run)
        else:
            yield [cell for _, cell in run]


def _rows(block: Block, places: Sequence[int]) -> Iterator[list[Cell]]:
    for group in block.groups:
        for each in group.lines:
            yield [each.cells[place] for place in places]


def _column(block: Block, place: int, style: Style) -> Column:
    numbers = [cell for (cell,) in _rows(block, [place]) if cell.number]
    before = max((len(_split(cell, style)[0]) for cell in numbers), default=0)
    after = max((len(_split(cell, style)[1]) for cell in numbers), default=0)
    margin = max((len(_margin(cell, style)) for cell in numbers), default=0)
    width = max(before + after + margin, cell_len(block.columns[place]))
    return Column(before=before, after=after, margin=margin, width=width)


def _split(cell: Cell, style: Style) -> tuple[str, str]:
    """Split a number at its decimal point; its marks follow it closely."""
    before, point, decimals = cell.text.partition(".")
    return before, f"{point}{decimals}{_STAR if cell.best and style.stars else ''}{cell.mark}"


def _margin(cell: Cell, style: Style) -> str:
    return f" {style.sign}{cell.margin}" if style.margins and cell.margin else ""


def _number(cell: Cell, column: Column, style: Style) -> str:
    before, after = _split(cell, style)
    return f"{before:>{column.before}}{after:<{column.after}}{_margin(cell, style):>{column.margin}}"
