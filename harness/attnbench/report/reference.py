"""The columns of rows and comparisons as tables for docs/results-format.md, made from the fields behind them."""

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
_UNIONS = (typing.Union, types.UnionType)


class Column(Struct, frozen=True, kw_only=True):
    """A column: its type in JSON and in a DataFrame, its numbers' unit, its values if they are few, its meaning."""

    name: str
    json: str
    dtype: str
    unit: str
    values: tuple[str, ...]
    meaning: str


def reference(of: type[Row | Comparison]) -> Iterator[Column]:
    """Describe each column of rows, or of comparisons."""
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
    """Render the columns as a table in Markdown."""
    lines = ["| column | JSON | DataFrame | unit | meaning |", "|---|---|---|---|---|"]
    for column in reference(of):
        values = ", ".join(f"`{value}`" for value in column.values if value)
        meaning = f"{column.meaning}: {values}" if values else column.meaning
        lines.append(f"| `{column.name}` | {column.json} | {column.dtype} | {column.unit} | {meaning} |")
    return "\n".join(lines) + "\n"


def _json(hint: Any) -> str:
    """Return the name of a type in JSON."""
    if typing.get_origin(hint) in _UNIONS:
        return " or ".join("null" if kind is type(None) else _json(kind) for kind in typing.get_args(hint))
    return "string" if typing.get_origin(hint) is Literal else _JSON[typing.get_origin(hint) or hint]
