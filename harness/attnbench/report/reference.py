"""What the columns of rows are, as a table for the documentation: made from the code, so that it cannot differ."""

import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

from msgspec import Struct

from attnbench.analysis.compare import Comparison
from attnbench.analysis.rows import Row
from attnbench.report.flat import columns
from attnbench.report.frame import DTYPES

_JSON = {str: "string", int: "integer", float: "number", bool: "boolean", dict: "object", tuple: "array"}
_ALTERNATIVES = (typing.Union, types.UnionType)


class Column(Struct, frozen=True, kw_only=True):
    """A column: its type in JSON and in a DataFrame, the unit of its numbers, its values where few, and its meaning."""

    name: str
    json: str
    dtype: str
    unit: str
    values: tuple[str, ...]
    meaning: str


def reference(of: type[Row | Comparison]) -> Iterator[Column]:
    """Return a description of each column of rows, or of comparisons."""
    for column in columns(of):
        is_choice = typing.get_origin(column.type) is Literal
        yield Column(
            name=column.name,
            json=_json(column.type),
            dtype=DTYPES[column.kind].partition("[")[0],
            unit=str((column.meta.extra or {}).get("unit", "")),
            values=tuple(map(str, typing.get_args(column.type))) if is_choice else (),
            meaning=column.meta.description or "",
        )


def markdown(of: type[Row | Comparison]) -> str:
    """Write the columns as a table in Markdown."""
    lines = ["| column | JSON | DataFrame | unit | meaning |", "|---|---|---|---|---|"]
    for each in reference(of):
        values = ", ".join(f"`{value}`" for value in each.values if value)
        meaning = f"{each.meaning}: {values}" if values else each.meaning
        lines.append(f"| `{each.name}` | {each.json} | {each.dtype} | {each.unit} | {meaning} |")
    return "\n".join(lines) + "\n"


def _json(hint: Any) -> str:
    if typing.get_origin(hint) in _ALTERNATIVES:
        return " or ".join("null" if each is type(None) else _json(each) for each in typing.get_args(hint))
    return "string" if typing.get_origin(hint) is Literal else _JSON[typing.get_origin(hint) or hint]
