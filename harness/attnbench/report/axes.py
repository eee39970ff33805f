"""The layout of a block of a table: which axes run across, which have a column of labels, which stand above it.

Axes and their headings are the fields of Shape, Mask and Case, so a new axis needs nothing here.
"""

import re
import typing
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec import Meta, Struct

from attnbench.analysis.compare import Comparison
from attnbench.analysis.rows import Row
from attnbench.contracts.case import AXES as OF_A_CASE
from attnbench.contracts.case import AxisValue, Case, Identity, Mask, Option, Shape, canonical
from attnbench.contracts.text import plain, with_options

RowOrPair = Row | Comparison
ColumnKey = tuple[str, int]  # the task or the listed shape, empty where there is none, and the sequence length
VariantNames = Mapping[Identity, str]  # as `variant_labels` returns them
_Options = Mapping[str, Option]

_STRUCTS: tuple[type[Struct], ...] = (Shape, Mask, Case)
_ELSEWHERE = ("passes", "seq_q", "shape_name")  # shown in a block's title or a column's heading
_SELF_EXPLAINING = ("dtype", "device")  # shown without their title, and also where they have their default
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
AXES = tuple(name for name in OF_A_CASE if name not in _ELSEWHERE)
_DEFAULTS = {field.name: field.default for struct in _STRUCTS for field in msgspec.structs.fields(struct)}


class Layout(Struct, frozen=True, kw_only=True):
    """A block's layout: `labels` are the axes with a column of labels, `context` describes the rest."""

    columns: tuple[ColumnKey, ...]
    labels: tuple[str, ...]
    context: str


def column_of(row: RowOrPair) -> ColumnKey:
    """Return the column of a row: its task or shape, and its length.

    The model's heads are an axis of their own and left out of the task.
    """
    return _HEADS.sub("", row.task) or row.case.shape_name, row.case.length


def column_heading(row: RowOrPair) -> str:
    """Return the heading of the axis that runs across the columns."""
    length = TITLES["seq_k" if row.case.passes == "decode" else "seq_q"]
    named = "task" if row.task else TITLES["shape_name"] if row.case.shape_name else ""
    return f"{named} ({length})" if named else length


def layout(rows: Sequence[RowOrPair]) -> Layout:
    """Lay out the axes of a block's rows.

    An axis that varies has a column of labels, unless the column determines it (the batch in a sweep of constant
    tokens); such axes and constant ones stand in the context.
    """
    by_column: dict[ColumnKey, list[RowOrPair]] = {column: [] for column in _columns(rows)}
    for row in rows:
        by_column[column_of(row)].append(row)
    labels, context = [], []
    for axis in AXES:
        if axis == "seq_k" and rows[0].case.passes == "decode":
            continue
        if len(values := _values(axis, rows)) == 1:
            context.append(_constant(axis, *values))
        elif all(len(_values(axis, within)) == 1 for within in by_column.values()):
            context.append(_across(axis, [axis_text(within[0].case.axes()[axis]) for within in by_column.values()]))
        elif (of := _FOLLOWS.get(axis)) in labels and (following := _following(axis, str(of), rows)):
            context.append(_across(axis, following))
        else:
            labels.append(axis)
    return Layout(columns=tuple(by_column), labels=tuple(labels), context=", ".join(filter(None, context)))


def axis_text(value: AxisValue) -> str:
    """Return an axis's value for a column of labels."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else plain(str(value))


def variant_labels(variants: Mapping[Identity, _Options]) -> dict[Identity, str]:
    """Return distinct names of variants: with the options in which namesakes differ, or else with their origin.

    `variants` maps each variant's identity to its options, in the order in which a name lists them.
    """
    names = _labels((identity[0], options) for identity, options in variants.items())
    labels = {identity: names[identity[:2]] for identity in variants}
    counts = Counter(labels.values())
    return {
        identity: f"{label} ({plain(identity[2])})" if counts[label] > 1 else label
        for identity, label in labels.items()
    }


def names_of(rows: Iterable[Row]) -> dict[Identity, str]:
    """Return the names of the variants of rows."""
    return variant_labels({row.identity: row.case.options for row in rows})


def column_labels(rows: Iterable[RowOrPair], columns: Iterable[ColumnKey]) -> tuple[str, ...]:
    """Return the columns' headings: the length, after the shape or the task with its distinguishing options."""
    tasks = {column_of(row)[0]: task_of(row) for row in rows}
    names = _labels(tasks.values())
    keys = {task: (name, canonical(options)) for task, (name, options) in tasks.items()}
    return tuple(f"{names[keys[task]]} ({length})" if task else str(length) for task, length in columns)


def _columns(rows: Sequence[RowOrPair]) -> tuple[ColumnKey, ...]:
    columns = dict.fromkeys(column_of(row) for row in rows)
    tasks = list(dict.fromkeys(task_of(row)[0] for row in rows))
    order = {column_of(row)[0]: tasks.index(task_of(row)[0]) for row in rows}
    return tuple(sorted(columns, key=lambda column: (order[column[0]], column[1])))


def task_of(row: RowOrPair) -> tuple[str, _Options]:
    """Return a task's name and its options as typed, without a length that repeats the column's."""
    name, *typed = _OPTIONS.split(column_of(row)[0])
    options = dict(piece.split("=", 1) for piece in typed)
    return name, {key: value for key, value in options.items() if (key, value) != ("length", str(row.case.shape.seq_q))}


def _labels(named: Iterable[tuple[str, _Options]]) -> dict[tuple[str, str], str]:
    """Return each name with the options in which its namesakes differ, by the name and its options as JSON."""
    namesakes: dict[str, dict[str, _Options]] = {}
    for name, options in named:
        namesakes.setdefault(name, {})[canonical(options)] = options
    return {
        (name, key): plain(with_options(name, options, keys=_differing(list(by_key.values()))))
        for name, by_key in namesakes.items()
        for key, options in by_key.items()
    }


def _differing(several: list[_Options]) -> list[str]:
    keys = dict.fromkeys(key for options in several for key in options)
    return [
        key
        for key in keys
        if len({canonical({key: options[key]} if key in options else {}) for options in several}) > 1
    ]


def _values(axis: str, rows: Iterable[RowOrPair]) -> set[AxisValue]:
    """Return an axis's values; None for one that equals its twin's (kv heads and heads)."""
    twin = _TWINS.get(axis, axis)
    several = [row.case.axes() for row in rows]
    return {None if twin != axis and axes[axis] == axes[twin] else axes[axis] for axes in several}


def _following(axis: str, of: str, rows: Sequence[RowOrPair]) -> list[str]:
    """Return an axis's values in the order of another axis that determines them; else none."""
    pairs: list[tuple[typing.Any, typing.Any]] = sorted(
        {(axes[of], axes[axis]) for axes in (row.case.axes() for row in rows)}
    )
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
