"""A row as a line of plain cells, for the formats that have no objects in a cell (CSV, Parquet, a DataFrame)."""

import typing
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import astuple

from attnbench.contracts.text import canonical, canonical_each

Cell = bool | int | float | str | None
Kind = Literal["int", "float", "bool", "text", "category"]

_KINDS: dict[object, Kind] = {int: "int", float: "float", bool: "bool"}
_CATEGORIES = ("metric", "unit", "device")  # text of which a run has few


def _kind(name: str, hint: object) -> Kind:
    if name in _CATEGORIES or typing.get_origin(hint) is Literal:
        return "category"
    choices = [choice for choice in typing.get_args(hint) or (hint,) if choice is not type(None)]
    return _KINDS.get(choices[0], "text") if len(choices) == 1 else "text"


@cache
def columns(of: type[Struct]) -> dict[str, Kind]:
    """Name the columns of rows, or of comparisons, and what they hold."""
    return {name: _kind(name, hint) for name, hint in typing.get_type_hints(of).items()}


def flat(row: Struct) -> list[Cell]:
    """Give a row's cells in the order of its columns: mappings as JSON text, flags joined by spaces."""
    return [_cell(value) for value in astuple(row)]


def written(values: Sequence[Any]) -> Sequence[Cell]:
    """Give a column's values as cells, which of most columns they are already; what several share is written once."""
    if values and isinstance(values[0], tuple):
        return list(map(" ".join, values))
    if not values or not isinstance(values[0], dict):
        return values
    apart = {id(value): value for value in values}
    texts = dict(zip(apart, canonical_each(apart.values()), strict=True))
    return [texts[id(value)] for value in values]


def _cell(value: Any) -> Cell:
    if isinstance(value, dict):
        return canonical(value)
    return " ".join(value) if isinstance(value, tuple) else value
