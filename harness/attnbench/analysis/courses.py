"""Rows as courses: a variant's values of one metric along the sequence lengths, all other axes as they are."""

from collections.abc import Iterable, Iterator, Sequence

import msgspec
from msgspec import Struct

from attnbench.analysis.rows import Row
from attnbench.contracts.case import Case, Mask, Shape
from attnbench.contracts.text import canonical

Value = bool | int | str | None
Axes = dict[str, Value]
Variant = tuple[str, str, str]

_NOT_AXES = ("shape", "mask", "variant", "options", "seq_q", "seq_k", "batch")  # the last three may run along a course
_AXES = tuple(
    field.name
    for struct in (Shape, Mask, Case)
    for field in msgspec.structs.fields(struct)
    if field.name not in _NOT_AXES
)


class Course(Struct, frozen=True, kw_only=True):
    """A variant's rows by length, ascending."""

    rows: dict[int, Row]

    @property
    def row(self) -> Row:
        """One of the rows, for what they have in common."""
        return next(iter(self.rows.values()))

    @property
    def variant(self) -> Variant:
        """What tells one variant from another: name, options and origin."""
        return self.row.variant, canonical(self.row.options), self.row.origin

    @property
    def per_sequence(self) -> bool:
        """Whether the batch changes with the length, as in a sweep of constant tokens."""
        return len({row.batch for row in self.rows.values()}) > 1


class Field(Struct, frozen=True, kw_only=True):
    """The courses of one metric that may be compared: all axes but the variant and the length agree.

    `axes` holds them; the batch is among them unless it changes with the length.
    """

    metric: str
    axes: Axes
    courses: tuple[Course, ...]


def fields(rows: Iterable[Row], *, positive: bool = True) -> list[Field]:
    """Sort the rows whose value is above zero into fields; of two rows for one cell the later one counts.

    Without `positive` any value will do: for what is not drawn or fitted by its logarithm.
    """
    known = [row for row in rows if row.value is not None and (row.value > 0 or not positive)]
    is_square = all(row.seq_q == row.seq_k for row in known if row.passes != "decode")
    alike: dict[object, list[Row]] = {}
    for row in known:
        key = (row.run, row.metric, row.task, *_axes(row).values(), None if is_square else _other_length(row))
        alike.setdefault(key, []).append(row)
    return [_field(each, is_square=is_square) for group in alike.values() for each in _by_batch(group)]


def length_of(row: Row) -> int:
    """Give the length that a course runs along: the keys of a decoding query, else the queries."""
    return row.seq_k if row.passes == "decode" else row.seq_q


def _other_length(row: Row) -> int:
    return row.seq_q if row.passes == "decode" else row.seq_k


def _axes(row: Row) -> Axes:
    return {name: getattr(row, name) for name in _AXES}


def _by_batch(rows: list[Row]) -> Iterator[list[Row]]:
    """Keep rows together where the length determines the batch; else a course has one batch."""
    batches: dict[int, set[int]] = {}
    by_batch: dict[int, list[Row]] = {}
    for row in rows:
        batches.setdefault(length_of(row), set()).add(row.batch)
        by_batch.setdefault(row.batch, []).append(row)
    if all(len(each) == 1 for each in batches.values()):
        yield rows
    else:
        yield from by_batch.values()


def _field(rows: Sequence[Row], *, is_square: bool) -> Field:
    cells: dict[Variant, dict[int, Row]] = {}
    for row in rows:
        cells.setdefault((row.variant, canonical(row.options), row.origin), {})[length_of(row)] = row
    first = rows[0]
    axes = _axes(first)
    if not is_square and first.passes != "decode":
        axes["seq_k"] = first.seq_k
    if len({row.batch for row in rows}) == 1:
        axes["batch"] = first.batch
    return Field(
        metric=first.metric,
        axes=axes,
        courses=tuple(Course(rows=dict(sorted(found.items()))) for found in cells.values()),
    )
