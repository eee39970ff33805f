"""The table of a row's columns for docs/results-format.md, made from the fields that hold them."""

import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

from msgspec import Meta, Struct

from attnbench.contracts.case import Case, Mask, Shape
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


def reference(of: type[Struct]) -> Iterator[Column]:
    """Describe the columns of rows; a column that is a field of a case has the meaning that the case gives it."""
    metas = {name: meta for part in (Shape, Mask, Case, of) for name, meta in _metas(part).items() if meta}
    kinds = columns(of)
    for name, hint in typing.get_type_hints(of).items():
        meta = metas.get(name, Meta())
        yield Column(
            name=name,
            json=_json(hint),
            dtype=DTYPES[kinds[name]],
            unit=str((meta.extra or {}).get("unit", "")),
            values=tuple(map(str, typing.get_args(hint))) if typing.get_origin(hint) is Literal else (),
            meaning=meta.description or "",
        )


def markdown(of: type[Struct]) -> str:
    """Render the columns as a table in Markdown."""
    lines = ["| column | JSON | DataFrame | unit | meaning |", "|---|---|---|---|---|"]
    for column in reference(of):
        values = ", ".join(f"`{value}`" for value in column.values if value)
        meaning = f"{column.meaning}: {values}" if values else column.meaning
        lines.append(f"| `{column.name}` | {column.json} | {column.dtype} | {column.unit} | {meaning} |")
    return "\n".join(lines) + "\n"


def _metas(part: type[Struct]) -> dict[str, Meta | None]:
    """Return each field's last annotation that has a description."""
    hints = typing.get_type_hints(part, include_extras=True)
    return {name: next(filter(_describes, reversed(typing.get_args(hint))), None) for name, hint in hints.items()}


def _describes(annotation: Any) -> bool:
    return isinstance(annotation, Meta) and annotation.description is not None


def _json(hint: Any) -> str:
    """Return the name of a type in JSON."""
    if typing.get_origin(hint) in _UNIONS:
        return " or ".join("null" if kind is type(None) else _json(kind) for kind in typing.get_args(hint))
    return "string" if typing.get_origin(hint) is Literal else _JSON[typing.get_origin(hint) or hint]
