"""Rows and comparisons as columns: the one place where a case is flattened, by walking its fields.

The order of the columns is published; a new field of a case is a new column at the end.
"""

import typing
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from operator import attrgetter
from typing import Any, Literal

import msgspec
from msgspec import Meta, Struct

from attnbench.analysis.compare import Comparison
from attnbench.analysis.rows import Row
from attnbench.contracts.case import Case, canonical

Value = bool | int | float | str | None
Kind = Literal["int", "float", "bool", "text", "category"]

_KINDS: dict[object, Kind] = {int: "int", float: "float", bool: "bool"}
_CATEGORIES = ("metric", "unit", "device")  # text with few distinct values in a run
_PUBLISHED_AS_TEXT = ("allocator",)
_VARIANT = "where the variant comes from: distribution and version, or a file"

# Columns that are neither a field of a row nor of its case: the attribute, and what the column means.
_OF_ROW = {
    "origin": ("origin.name", _VARIANT),
    "task": ("probe.label", "the task as it is typed (mqar:preset=tiny,pairs=8), or empty"),
    "probe": ("probe.kind", "the probe that measured it, as in `--metrics`"),
    "task_options": ("probe.task_options", "options of the task and the training, with defaults filled in"),
    "source": ("origin.sources", "hash of the plugin's source files"),
    "profile": ("protocol.profile", "the measuring profile: quick, default or rigorous"),
    "threads": ("protocol.threads", "CPU threads"),
    "hot": ("protocol.hot", "CUDA: whether the L2 cache was not flushed between samples"),
    "allocator": ("protocol.allocator", "C heap: default, or retained (never returned to the system)"),
}
_ROW = (
    *("run", "variant", "options", "origin", "metric", "passes", "level", "task", "seq_q", "seq_k", "heads"),
    *("kv_heads", "head_dim", "batch", "dtype", "device", "causal", "window", "status", "value", "low", "high"),
    *("unit", "samples", "rounds", "noise", "backend", "detail", "inputs", "seed", "shape_name", "min", "p05"),
    *("p95", "iqr", "spread", "medians", "outliers", "flags", "probe", "primary", "higher_is_better"),
    *("task_options", "facts", "source", "environment", "profile", "threads", "hot", "allocator"),
)
# Of a comparison, variant, options and origin are those of the base.
_OF_COMPARISON = {
    "origin": ("one.origin.name", _VARIANT),
    "task": ("one.probe.label", _OF_ROW["task"][1]),
    "base": ("base_value", "the base's value: of tested times, the geometric mean over the rounds"),
    "new": ("new_value", "the new value, likewise"),
    "unit": ("one.unit", "unit of both values"),
    "paired": ("paired", "whether rounds of one run were compared one by one"),
    "base_rounds": ("base_rounds", "rounds, or seeds, of the base that were compared"),
    "new_rounds": ("new_rounds", "those of the new side"),
    "flags": ("flags", "the flags of both rows"),
    "probe": ("one.probe.kind", _OF_ROW["probe"][1]),
    "higher_is_better": ("one.higher_is_better", "whether larger values are better"),
    "base_run": ("base_run", "the base's run; empty where there is no such row"),
    "new_run": ("new_run", "the new row's run; empty where there is no such row"),
    "new_variant": ("other.case.variant", "the new row's variant"),
    "new_options": ("other.case.options", "its options"),
    "new_origin": ("other.origin.name", "where it comes from"),
}
_COMPARISON = (
    *("variant", "options", "origin", "passes", "level", "task", "seq_q", "seq_k", "heads", "kv_heads", "head_dim"),
    *("batch", "dtype", "device", "causal", "window", "inputs", "seed", "metric", "base", "new", "ratio", "low"),
    *("high", "verdict", "why", "unit", "paired", "base_rounds", "new_rounds", "band", "p", "p_adjusted", "flags"),
    *("probe", "higher_is_better", "base_run", "new_run", "new_variant", "new_options", "new_origin", "shape_name"),
)


class Column(Struct, frozen=True, kw_only=True):
    """A column: its name, the type and description of its values, and the function that reads one from a row."""

    name: str
    type: Any
    meta: Meta
    get: Callable[[Any], Any]

    @property
    def kind(self) -> Kind:
        """The kind of its values."""
        if self.name in _PUBLISHED_AS_TEXT:
            return "text"
        if self.name in _CATEGORIES or typing.get_origin(self.type) is Literal:
            return "category"
        choices = [choice for choice in typing.get_args(self.type) or (self.type,) if choice is not type(None)]
        return _KINDS.get(choices[0], "text") if len(choices) == 1 else "text"

    def values(self, rows: Sequence[Struct]) -> list[Value]:
        """Return the column's values: mappings as JSON text, flags joined by spaces."""
        values = map(self.get, rows)
        return list(map(_text, values)) if typing.get_origin(self.type) in (dict, tuple) else list(values)


@cache
def columns(of: type[Row | Comparison]) -> tuple[Column, ...]:
    """Return the columns of rows, or of comparisons, in their published order."""
    others, order, case = (_OF_ROW, _ROW, "case") if of is Row else (_OF_COMPARISON, _COMPARISON, "one.case")
    axes = {path.rpartition(".")[2]: path for path in _leaves(Case, case)}
    paths = {name: (name, "") for name in of.__struct_fields__} | {name: (path, "") for name, path in axes.items()}
    names = (*order, *(name for name in axes if name not in order))
    return tuple(_column(of, name, *(paths | others)[name]) for name in names)


def to_json(rows: Sequence[Row] | Sequence[Comparison]) -> str:
    """Render rows as one JSON array with a row a line, as `--json` prints it."""
    if not rows:
        return "[]\n"
    of = columns(type(rows[0]))
    lines = (msgspec.json.encode({column.name: column.get(row) for column in of}).decode() for row in rows)
    return "[\n" + ",\n".join(lines) + "\n]\n"


def _leaves(of: type[Struct], path: str) -> Iterator[str]:
    """Yield the path of every field that is not a struct."""
    for name, hint in typing.get_type_hints(of).items():
        if isinstance(hint, type) and issubclass(hint, Struct):
            yield from _leaves(hint, f"{path}.{name}")
        else:
            yield f"{path}.{name}"


def _column(of: type[Struct], name: str, path: str, meaning: str) -> Column:
    hint: Any = of
    meta = Meta()
    for part in path.split("."):
        hint, meta = _member(hint, part)
    return Column(name=name, type=hint, meta=Meta(description=meaning) if meaning else meta, get=attrgetter(path))


def _member(of: type[Struct], name: str) -> tuple[Any, Meta]:
    """Return the type of a field or property, and its description."""
    owner = of if name in of.__struct_fields__ else getattr(of, name).fget
    key = name if owner is of else "return"
    annotations = typing.get_args(typing.get_type_hints(owner, include_extras=True)[key])
    described = (meta for meta in reversed(annotations) if isinstance(meta, Meta) and meta.description)
    return typing.get_type_hints(owner)[key], next(described, Meta())


def _text(value: dict[Any, Any] | tuple[str, ...]) -> str:
    if isinstance(value, tuple):
        return " ".join(value)
    by_name = all(isinstance(key, str) for key in value)  # and not by round
    return canonical(value) if by_name else msgspec.json.encode(value).decode()
