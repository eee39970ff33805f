"""The conclusion of a run: its fastest exact mechanism, the fastest that approximates, and what that one gives up."""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from attnbench.analysis.aa_floor import aa_floor
from attnbench.analysis.compare import Comparison, compare_pairs
from attnbench.analysis.curves import curve_groups
from attnbench.analysis.match import Pair
from attnbench.analysis.regime import Refusal, is_quality, may_be_weighed, refusal
from attnbench.analysis.rows import Row
from attnbench.plugins.empty import WORST


class Choice(Struct, frozen=True, kw_only=True):
    """The fastest of a kind, compared (as new) with each other one of it, the next fastest first."""

    best: Row
    against: tuple[Comparison, ...]

    @property
    def undecided(self) -> tuple[Row, ...]:
        """The rows that it is not shown to be faster than."""
        return tuple(pair.one for pair in self.against if pair.verdict != "faster")


class Loss(Struct, frozen=True, kw_only=True):
    """A quality of a mechanism that approximates, beside that of exact attention and of the floor where they are known.

    `refused` says why the figure does not count at the length of the cost.
    """

    row: Row
    exact: Row | None
    floor: Row | None
    refused: Refusal | None


class Conclusion(Struct, frozen=True, kw_only=True):
    """What the longest length of a run shows, at its most heads.

    `gain` compares the fastest that approximates (as new) with the fastest exact one.
    """

    exact: Choice | None
    approximate: Choice | None
    gain: Comparison | None
    losses: tuple[Loss, ...]

    @property
    def at(self) -> Row:
        """A row of the setting."""
        choice = self.exact or self.approximate
        assert choice is not None
        return choice.best


def conclude(rows: Iterable[Row]) -> Conclusion | None:
    """Return the conclusion of one run's rows; None where nothing was timed that says whether it is exact.

    All its tests are one family.
    """
    shown = [row for row in rows if not row.is_harness]
    settings = _settings(row for row in shown if row.metric == "latency" and "exact" in row.facts)
    if not settings:
        return None
    largest = max(settings, key=lambda setting: _size(setting[0]))  # the first of equals: passes and levels as swept
    exacts, others = ([row for row in largest if bool(row.facts["exact"]) is exact] for exact in (True, False))
    floor = aa_floor(shown)
    pairs = [Pair(metric=row.metric, base=row, new=kind[0]) for kind in (exacts, others) for row in kind[1:]]
    if exacts and others:
        pairs.append(Pair(metric=exacts[0].metric, base=exacts[0], new=others[0]))
    tested = compare_pairs(pairs, [floor] if floor else [])
    against = {pair.one.identity: pair for pair in tested}
    gain = tested[-1] if exacts and others else None
    exact, approximate = (
        Choice(best=kind[0], against=tuple(against[row.identity] for row in kind[1:])) if kind else None
        for kind in (exacts, others)
    )
    return Conclusion(
        exact=exact,
        approximate=approximate,
        gain=gain,
        losses=_losses(others[0], exacts[0] if exacts else None, shown) if others else (),
    )


def _settings(latencies: Iterable[Row]) -> list[list[Row]]:
    """Return the latencies of each setting, the fastest first."""
    found = []
    for group in curve_groups(latencies):
        for length in sorted({length for curve in group.curves for length in curve.rows}):
            of_length = [curve.rows[length] for curve in group.curves if length in curve.rows]
            found.append(sorted(of_length, key=lambda row: row.value or 0))
    return found


def _size(row: Row) -> tuple[int, ...]:
    shape = row.case.shape
    return row.case.length, shape.seq_k, shape.heads, shape.batch, shape.head_dim


def _losses(cost: Row, exact: Row | None, rows: Sequence[Row]) -> tuple[Loss, ...]:
    """Return the qualities of a mechanism, one a metric: that which counts for its cost, of these the longest."""
    found: dict[str, Loss] = {}
    own = [row for row in rows if row.identity == cost.identity and row.primary and row.value is not None]
    own = [row for row in own if is_quality(row) and may_be_weighed(row, cost)]
    for row in sorted(own, key=lambda row: (refusal(cost, row) is not None, -row.case.length)):
        if row.metric not in found:
            beside = [other for other in rows if other.metric == row.metric and _exam(other) == _exam(row)]
            found[row.metric] = Loss(
                row=row,
                exact=next((other for other in beside if exact and other.identity == exact.identity), None),
                floor=next((other for other in beside if other.case.variant == WORST), None),
                refused=refusal(cost, row),
            )
    return tuple(found.values())


def _exam(row: Row) -> tuple[object, ...]:
    return row.task, *row.case.axes().values()
