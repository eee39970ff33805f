"""Where a block of a table shows each axis of the sweep: across the columns, in a column of labels, or once above it.

Axes and their headings are the fields of Shape, Mask and Case, so a new axis needs nothing here.
"""

import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec
from msgspec import Meta, Struct

from attnbench.analysis.compare import Comparison
from attnbench.analysis.rows import Row
from attnbench.contracts.case import Case, Mask, Option, Shape
from attnbench.contracts.text import canonical, plain, with_options

Placed = Row | Comparison  # what has a place in a table
Column = tuple[str, int]  # the task or the listed shape, empty where there is none, and the sequence length
Value = bool | int | str | None
VariantKey = tuple[str, str, str]
Named = tuple[str, Mapping[str, Option]]

_STRUCTS: tuple[type[Struct], ...] = (Shape, Mask, Case)
_NOT_AXES = (
    "shape",
    "mask",
    "variant",
    "options",
    "passes",
    "seq_q",
    "shape_name",
)  # what names a block, a line or a column
_SELF_EXPLAINING = ("dtype", "device")  # said without their heading, and also where they have their default
_TWINS = {"seq_k": "seq_q", "kv_heads": "heads"}  # equal unless the sweep says otherwise
_MOST_LISTED = 8
_HEADS = re.compile(r",heads=[0-9]+")
_FOLLOWS = {"head_dim": "heads"}  # where heads share a width
_OPTIONS = re.compile(r"[:,](?=[A-Za-z_]\w*=)")  # before each option of a task


def _title(hint: object) -> str:
    metas = [meta for meta in typing.get_args(hint)[1:] if isinstance(meta, Meta)]
    return next((meta.title for meta in reversed(metas) if meta.title), "")


TITLES = {
    name: _title(hint)
    for struct in _STRUCTS
    for name, hint in typing.get_type_hints(struct, include_extras=True).items()
}
AXES = tuple(
    field.name for struct in _STRUCTS for field in msgspec.structs.fields(struct) if field.name not in _NOT_AXES
)
_DEFAULTS = {field.name: field.default for struct in _STRUCTS for field in msgspec.structs.fields(struct)}


class OfVariant(Protocol):
    """What a variant's name can be read from."""

    @property
    def variant(self) -> str:
        """The name as asked."""
        ...

    @property
    def options(self) -> Mapping[str, Option]:
        """Its options, complete."""
        ...

    @property
    def origin(self) -> str:
        """Where it comes from."""
        ...


class Layout(Struct, frozen=True, kw_only=True):
    """How a block's axes are laid out: `labels` are the axes that get a column of labels, `context` the rest."""

    columns: tuple[Column, ...]
    labels: tuple[str, ...]
    context: str


def column_of(row: Placed) -> Column:
    """Say in which column a row stands: by its keys when decoding, else by its queries; under its task or shape.

    The model's heads are an axis of their own, and no part of the task.
    """
    return _HEADS.sub("", row.task) or row.shape_name, row.seq_k if row.passes == "decode" else row.seq_q


def column_heading(row: Placed) -> str:
    """Name the axis that runs across the columns."""
    length = TITLES["seq_k" if row.passes == "decode" else "seq_q"]
    named = "task" if row.task else TITLES["shape_name"] if row.shape_name else ""
    return f"{named} ({length})" if named else length


def layout(rows: Sequence[Placed]) -> Layout:
    """Sort the axes of a block's rows by what they do there.

    An axis that varies gets a column of labels, unless the column determines it (as the batch in a sweep of constant
    tokens): then, as one that does not vary, it is said in the context.
    """
    by_column: dict[Column, list[Placed]] = {column: [] for column in _columns(rows)}
    for row in rows:
        by_column[column_of(row)].append(row)
    labels, context = [], []
    for axis in AXES:
        if axis == "seq_k" and rows[0].passes == "decode":
            continue
        if len(values := _values(axis, rows)) == 1:
            context.append(_constant(axis, *values))
        elif all(len(_values(axis, within)) == 1 for within in by_column.values()):
            context.append(_across(axis, [axis_text(getattr(within[0], axis)) for within in by_column.values()]))
        elif (of := _FOLLOWS.get(axis)) in labels and (following := _following(axis, str(of), rows)):
            context.append(_across(axis, following))
        else:
            labels.append(axis)
    return Layout(columns=tuple(by_column), labels=tuple(labels), context=", ".join(filter(None, context)))


def axis_text(value: Value) -> str:
    """Write an axis's value for a column of labels."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else plain(str(value))


def variant_labels(rows: Iterable[OfVariant]) -> dict[VariantKey, str]:
    """Name variants apart: by the options in which namesakes differ, and by their origin where that is all.

    The key is that of `variant_key`.
    """
    known = {variant_key(row): row for row in rows}
    names = _labels((row.variant, row.options) for row in known.values())
    labels = {key: names[key[0], key[1]] for key in known}
    return {
        key: f"{label} ({plain(known[key].origin)})" if list(labels.values()).count(label) > 1 else label
        for key, label in labels.items()
    }


def variant_key(row: OfVariant) -> VariantKey:
    """Give what tells one variant from another: name, options and origin."""
    return row.variant, canonical(row.options), row.origin


def column_labels(rows: Iterable[Placed], columns: Iterable[Column]) -> tuple[str, ...]:
    """Head the columns: with the length, and before it the shape, or the task with the options that tell it apart."""
    tasks = {column_of(row)[0]: task_of(row) for row in rows}
    names = _labels(tasks.values())
    keys = {task: (name, canonical(options)) for task, (name, options) in tasks.items()}
    return tuple(f"{names[keys[task]]} ({length})" if task else str(length) for task, length in columns)


def _columns(rows: Sequence[Placed]) -> tuple[Column, ...]:
    found = dict.fromkeys(column_of(row) for row in rows)
    tasks = list(dict.fromkeys(task_of(row)[0] for row in rows))
    first = {column_of(row)[0]: tasks.index(task_of(row)[0]) for row in rows}
    return tuple(sorted(found, key=lambda column: (first[column[0]], column[1])))


def task_of(row: Placed) -> Named:
    """Split a task from its options as typed, less a length that only repeats the column's; a listed shape has none."""
    name, *typed = _OPTIONS.split(column_of(row)[0])
    options = dict(piece.split("=", 1) for piece in typed)
    return name, {key: value for key, value in options.items() if (key, value) != ("length", str(row.seq_q))}


def _labels(named: Iterable[Named]) -> dict[tuple[str, str], str]:
    """Label each name with the options in which its namesakes differ; the key is the name and its options as JSON."""
    namesakes: dict[str, dict[str, Mapping[str, Option]]] = {}
    for name, options in named:
        namesakes.setdefault(name, {})[canonical(options)] = options
    return {
        (name, key): plain(with_options(name, options, keys=_differing(list(known.values()))))
        for name, known in namesakes.items()
        for key, options in known.items()
    }


def _differing(several: list[Mapping[str, Option]]) -> list[str]:
    keys = dict.fromkeys(key for options in several for key in options)
    return [
        key
        for key in keys
        if len({canonical({key: options[key]} if key in options else {}) for options in several}) > 1
    ]


def _values(axis: str, rows: Iterable[Placed]) -> set[object]:
    """Collect an axis's values; one that equals its twin's (kv heads and heads) counts as null."""
    twin = _TWINS.get(axis, axis)
    return {None if twin != axis and getattr(row, axis) == getattr(row, twin) else getattr(row, axis) for row in rows}


def _following(axis: str, of: str, rows: Sequence[Placed]) -> list[str]:
    """List an axis's values in the order of another's, if that determines them."""
    pairs = sorted({(getattr(row, of), getattr(row, axis)) for row in rows})
    return [axis_text(value) for _, value in pairs] if len(dict(pairs)) == len(pairs) else []


def _constant(axis: str, value: object) -> str:
    if axis in _SELF_EXPLAINING:
        return plain(str(value))
    if value == _DEFAULTS[axis] or value is None:
        return ""
    return TITLES[axis] if value is True else f"{TITLES[axis]} {value}"


def _across(axis: str, values: list[str]) -> str:
    listed = values if len(values) <= _MOST_LISTED else [values[0], "...", values[-1]]
    return f"{TITLES[axis]} {'/'.join(listed)}"
