"""What the columns of rows are, as a table for the documentation: made from the code, so that it cannot differ."""

import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

from msgspec import Meta, Struct

from attnbench.contracts.case import Case, Mask, Shape
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


def reference(of: type[Struct]) -> Iterator[Column]:
    """Describe the columns of rows; one that is a field of a case means what the case says of it."""
    told = {name: meta for part in (Shape, Mask, Case, of) for name, meta in _metas(part).items() if meta}
    kinds = columns(of)
    for name, hint in typing.get_type_hints(of).items():
        meta = told.get(name, Meta())
        yield Column(
            name=name,
            json=_json(hint),
            dtype=DTYPES[kinds[name]],
            unit=str((meta.extra or {}).get("unit", "")),
            values=tuple(map(str, typing.get_args(hint))) if typing.get_origin(hint) is Literal else (),
            meaning=meta.description or "",
        )


def markdown(of: type[Struct]) -> str:
    """Write the columns as a table in Markdown."""
    lines = ["| column | JSON | DataFrame | unit | meaning |", "|---|---|---|---|---|"]
    for each in reference(of):
        values = ", ".join(f"`{value}`" for value in each.values if value)
        meaning = f"{each.meaning}: {values}" if values else each.meaning
        lines.append(f"| `{each.name}` | {each.json} | {each.dtype} | {each.unit} | {meaning} |")
    return "\n".join(lines) + "\n"


def _metas(part: type[Struct]) -> dict[str, Meta | None]:
    """Read what each field says of itself: the last annotation that describes it."""
    hints = typing.get_type_hints(part, include_extras=True)
    return {name: next(filter(_describes, reversed(typing.get_args(hint))), None) for name, hint in hints.items()}


def _describes(annotation: Any) -> bool:
    return isinstance(annotation, Meta) and annotation.description is not None


def _json(hint: Any) -> str:
    if typing.get_origin(hint) in _ALTERNATIVES:
        return " or ".join("null" if each is type(None) else _json(each) for each in typing.get_args(hint))
    return "string" if typing.get_origin(hint) is Literal else _JSON[typing.get_origin(hint) or hint]
