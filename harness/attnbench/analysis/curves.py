"""Curves: a variant's rows of one metric along the sequence length, all other axes fixed."""

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby

from msgspec import Struct

from attnbench.analysis.groups import group_by
from attnbench.analysis.rows import Row
from attnbench.contracts.case import Axes, Identity

ALONG = ("seq_q", "seq_k", "batch")  # axes that may change along a curve


class Curve(Struct, frozen=True, kw_only=True):
    """A variant's rows by length, ascending, and the lengths at which it failed: no line leads through those."""

    rows: dict[int, Row]
    failed: tuple[int, ...] = ()

    @property
    def first(self) -> Row:
        """The row of the shortest length, for what all rows have in common."""
        return next(iter(self.rows.values()))

    @property
    def per_sequence(self) -> bool:
        """Whether the batch changes with the length, as in a sweep of constant tokens."""
        return len({row.case.shape.batch for row in self.rows.values()}) > 1


class CurveGroup(Struct, frozen=True, kw_only=True):
    """Comparable curves of one metric: all axes but the variant and the length are equal.

    `axes` holds the equal axes; the batch is among them unless it changes with the length.
    """

    metric: str
    axes: Axes
    curves: tuple[Curve, ...]


def curve_groups(rows: Iterable[Row], *, positive: bool = True) -> list[CurveGroup]:
    """Group the rows with a finite value above zero by curve; of two rows of one case the later one counts.

    Without `positive`, rows with any value are grouped: for what is neither drawn nor fitted by its logarithm.
    """
    rows = list(rows)
    valued = [row for row in rows if row.value is not None and (0 < row.value < math.inf or not positive)]
    shapes = [row.case.shape for row in valued if row.case.passes != "decode"]
    is_square = all(shape.seq_q == shape.seq_k for shape in shapes)

    def key(row: Row) -> tuple[object, ...]:
        shape = row.case.shape
        other_length = shape.seq_q if row.case.passes == "decode" else shape.seq_k
        return row.run, row.metric, row.task, *_axes(row).values(), None if is_square else other_length

    failed = group_by((row for row in rows if row.has_failed), key)
    return [
        _group(of_batch, failed.get(of_key, []), is_square=is_square)
        for of_key, group in group_by(valued, key).items()
        for of_batch in _by_batch(group)
    ]


def stretches(lengths: Iterable[int], failed: Collection[int]) -> Iterator[list[int]]:
    """Split ascending lengths where a failed one lies between: what is on one side tells nothing of the other."""
    for _, stretch in groupby(lengths, key=lambda length: sum(each < length for each in failed)):
        yield list(stretch)


def _axes(row: Row) -> Axes:
    return row.case.axes(without=ALONG)


def _by_batch(rows: list[Row]) -> Iterable[list[Row]]:
    """Return the rows together if the length determines the batch, else split by batch."""
    sizes = {(row.case.length, row.case.shape.batch) for row in rows}
    is_determined = len(sizes) == len({length for length, _ in sizes})
    return [rows] if is_determined else group_by(rows, lambda row: row.case.shape.batch).values()


def _group(rows: Sequence[Row], failed: Sequence[Row], *, is_square: bool) -> CurveGroup:
    by_variant: dict[Identity, dict[int, Row]] = {}
    for row in rows:
        by_variant.setdefault(row.identity, {})[row.case.length] = row
    first = rows[0]
    axes = _axes(first)
    if not is_square and first.case.passes != "decode":
        axes["seq_k"] = first.case.shape.seq_k
    if len({row.case.shape.batch for row in rows}) == 1:
        axes["batch"] = first.case.shape.batch
        failed = [row for row in failed if row.case.shape.batch == axes["batch"]]
    curves = (
        Curve(rows=dict(sorted(by_length.items())), failed=_failed(failed, variant, by_length))
        for variant, by_length in by_variant.items()
    )
    return CurveGroup(metric=first.metric, axes=axes, curves=tuple(curves))


def _failed(rows: Iterable[Row], variant: Identity, by_length: Collection[int]) -> tuple[int, ...]:
    return tuple(sorted({row.case.length for row in rows if row.identity == variant} - set(by_length)))
