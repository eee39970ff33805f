"""A row as a line of plain cells, for the formats that have no objects in a cell (CSV, Parquet, a DataFrame)."""

import typing
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, partial
from itertools import islice
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import astuple

from attnbench.text import canonical, canonical_each

Cell = bool | int | float | str | None
Kind = Literal["int", "float", "bool", "text", "category"]

_KINDS: dict[object, Kind] = {int: "int", float: "float", bool: "bool"}
_AT_ONCE = 1000  # rows, few enough to stay in a cache
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


def cells_of(of: type[Struct], rows: Iterable[Struct]) -> Iterator[tuple[str, Sequence[Cell]]]:
    """Give the same cells column by column, each with its name; what several rows share is written once."""
    values: list[list[Any]] = [[] for _ in of.__struct_fields__]
    left = iter(rows)
    while some := list(islice(left, _AT_ONCE)):
        for column, further in zip(values, zip(*map(astuple, some), strict=True), strict=True):
            column.extend(further)
    yield from zip(of.__struct_fields__, map(written, values), strict=True)


def written(values: Sequence[Any]) -> Sequence[Cell]:
    """Give a column's values as cells; of most columns they are cells already."""
    if not values or not isinstance(values[0], dict | tuple):
        return values
    apart = {id(value): value for value in values}
    write = canonical_each if isinstance(values[0], dict) else partial(map, _cell)
    texts = dict(zip(apart, write(apart.values()), strict=True))
    return [texts[id(value)] for value in values]


def _cell(value: Any) -> Cell:
    if isinstance(value, dict):
        return canonical(value)
    return " ".join(value) if isinstance(value, tuple) else value
