"""Columns encoded for the page: words by their index in a dictionary, repeats counted, numbers rounded."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from attnbench.contracts.text import plain
from attnbench.report.flat import Cell

_DIGITS = 7  # of a float: more than any measurement has

Coded = dict[str, Any]


def coded(columns: Mapping[str, Sequence[Cell]]) -> Coded:
    """Give columns of equal length as JSON values.

    A column has `numbers`, or `words` and `runs`: which word stands how many times, then the next.
    """
    count = len(next(iter(columns.values()), ()))
    return {"count": count, "columns": [{"name": name, **_column(cells)} for name, cells in columns.items()]}


def _column(cells: Sequence[Cell]) -> Coded:
    if any(isinstance(cell, float) for cell in cells):
        return {"numbers": [_rounded(cell) for cell in cells]}
    words: dict[Cell, int] = {}
    runs: list[int] = []
    for word, group in groupby(cells):
        runs += [words.setdefault(_shown(word), len(words)), sum(1 for _ in group)]
    return {"words": list(words), "runs": runs}


def _shown(cell: Cell) -> Cell:
    """Write out what does not print, and a boolean as a word: in a dictionary true would be 1."""
    return plain(cell) if isinstance(cell, str) else ("no", "yes")[cell] if isinstance(cell, bool) else cell


def _rounded(cell: Cell) -> Cell:
    """Round a float to its digits; a whole number, as of bytes, is kept."""
    if not isinstance(cell, float):
        return cell
    return int(cell) if cell.is_integer() and abs(cell) < 2**53 else float(f"{cell:.{_DIGITS}g}")
