"""Columns encoded for the page: words as indices into a dictionary, repeats counted, numbers rounded."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from attnbench.contracts.text import plain
from attnbench.report.flat import Value

_DIGITS = 7  # of a float: more than any measurement has

Coded = dict[str, Any]


def coded(columns: Mapping[str, Sequence[Value]]) -> Coded:
    """Encode columns of equal length as JSON values.

    A column has `numbers`, or `words` and `runs`: the index of a word and its number of repeats, then the next.
    """
    count = len(next(iter(columns.values()), ()))
    return {"count": count, "columns": [{"name": name, **_column(values)} for name, values in columns.items()]}


def _column(values: Sequence[Value]) -> Coded:
    if any(isinstance(value, float) for value in values):
        return {"numbers": [_rounded(value) for value in values]}
    words: dict[Value, int] = {}
    runs: list[int] = []
    for word, group in groupby(values):
        runs += [words.setdefault(_printable(word), len(words)), sum(1 for _ in group)]
    return {"words": list(words), "runs": runs}


def _printable(value: Value) -> Value:
    """Escape unprintable characters, and spell booleans, which a dictionary could not tell from 0 and 1."""
    return plain(value) if isinstance(value, str) else ("no", "yes")[value] if isinstance(value, bool) else value


def _rounded(value: Value) -> Value:
    """Round a float to its digits; a whole number, as of bytes, is kept."""
    if not isinstance(value, float):
        return value
    return int(value) if value.is_integer() and abs(value) < 2**53 else float(f"{value:.{_DIGITS}g}")
