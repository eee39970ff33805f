"""Courses: a variant's rows of one metric along the sequence length, all other axes fixed."""

from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from attnbench.analysis.rows import Row
from attnbench.contracts.case import Axes

ALONG = ("seq_q", "seq_k", "batch")  # axes that may change along a course


class Course(Struct, frozen=True, kw_only=True):
    """A variant's rows by length, ascending."""

    rows: dict[int, Row]

    @property
    def row(self) -> Row:
        """The first row, for what all have in common."""
        return next(iter(self.rows.values()))

    @property
    def per_sequence(self) -> bool:
        """Whether the batch changes with the length, as in a sweep of constant tokens."""
        return len({row.case.shape.batch for row in self.rows.values()}) > 1


class Field(Struct, frozen=True, kw_only=True):
    """Comparable courses of one metric: all axes but the variant and the length are equal.

    `axes` holds these; the batch is among them unless it changes with the length.
    """

    metric: str
    axes: Axes
    courses: tuple[Course, ...]


def fields(rows: Iterable[Row], *, positive: bool = True) -> list[Field]:
    """Group the rows with a value above zero into fields; of two rows at one place the later one counts.

    Without `positive`, rows with any value are grouped: for what is neither drawn nor fitted by its logarithm.
    """
    known = [row for row in rows if row.value is not None and (row.value > 0 or not positive)]
    is_square = all(_is_square(row) for row in known if row.case.passes != "decode")
    alike: dict[object, list[Row]] = {}
    for row in known:
        key = (row.run, row.metric, row.task, *_axes(row).values(), None if is_square else _other_length(row))
        alike.setdefault(key, []).append(row)
    return [_field(each, is_square=is_square) for group in alike.values() for each in _by_batch(group)]


def _is_square(row: Row) -> bool:
    return row.case.shape.seq_q == row.case.shape.seq_k


def _other_length(row: Row) -> int:
    return row.case.shape.seq_q if row.case.passes == "decode" else row.case.shape.seq_k


def _axes(row: Row) -> Axes:
    return row.case.axes(without=ALONG)


def _by_batch(rows: list[Row]) -> Iterator[list[Row]]:
    """Keep rows together if the length determines the batch, else split them by batch."""
    batches: dict[int, set[int]] = {}
    by_batch: dict[int, list[Row]] = {}
    for row in rows:
        batches.setdefault(row.case.length, set()).add(row.case.shape.batch)
        by_batch.setdefault(row.case.shape.batch, []).append(row)
    if all(len(each) == 1 for each in batches.values()):
        yield rows
    else:
        yield from by_batch.values()


def _field(rows: Sequence[Row], *, is_square: bool) -> Field:
    by_variant: dict[tuple[str, str, str], dict[int, Row]] = {}
    for row in rows:
        by_variant.setdefault(row.identity, {})[row.case.length] = row
    first = rows[0]
    axes = _axes(first)
    if not is_square and first.case.passes != "decode":
        axes["seq_k"] = first.case.shape.seq_k
    if len({row.case.shape.batch for row in rows}) == 1:
        axes["batch"] = first.case.shape.batch
    return Field(
        metric=first.metric,
        axes=axes,
        courses=tuple(Course(rows=dict(sorted(by_length.items()))) for by_length in by_variant.values()),
    )
