"""Whether a figure of quality counts for a cost: only where the mechanism approximates there as it does here.

A mechanism that sees 64 keys is exact attention on a sequence of 32, and sees 2% of 4096 keys. That it loses nothing at
the first length says nothing of the second.
"""

from typing import Literal

from msgspec import Struct

from attnbench.analysis.rows import Row
from attnbench.contracts.metrics import BEYOND, QUALITIES, accuracy_beyond, passes_of

_LONGER = tuple(map(accuracy_beyond, BEYOND))  # of sequences longer than those at which `exact_here` was measured
_WHOLE_PERCENT = 0.1
_ROOM = 1.25  # by which a share may be larger: options that count keys are whole numbers, and a global key stays one


class Refusal(Struct, frozen=True):
    """Why a quality does not count: it was measured where the mechanism is exact, or where it saw more of the keys."""

    kind: Literal["exact here", "other regime"]
    reason: str


def is_quality(row: Row) -> bool:
    """Return whether a row's figure belongs to the inputs or the task that it was measured on, not to a workload."""
    return row.probe.kind in QUALITIES


def may_be_weighed(quality: Row, cost: Row) -> bool:
    """Return whether a quality may be weighed against a cost: of its run, and where it is not trained, of its mask."""
    if quality.run != cost.run:
        return False
    passes = passes_of(quality.probe.metric, (cost.case.passes,))
    return bool(quality.task) or (quality.case.mask == cost.case.mask and quality.case.passes in passes)


def is_exact_here(row: Row) -> bool:
    """Return whether a mechanism that approximates was exact attention where its quality was measured."""
    return bool(row.facts.get("exact_here")) and not row.facts.get("exact") and row.metric not in _LONGER


def refusal(cost: Row, quality: Row) -> Refusal | None:
    """Return why a quality does not count for a cost of the same variant, or None where it does.

    An exact mechanism loses nothing at any length. The quality of another one counts if it was measured at the length
    of the cost with the same options, with options that were scaled to the quality's length from that one or a longer
    one, or if it saw no larger share of the keys than at the length of the cost.
    """
    here, there = quality.case.length, cost.case.length
    if cost.facts.get("exact") or (here == there and not quality.probe.scaled):
        return None
    if is_exact_here(quality):
        return Refusal("exact here", f"exact attention at N = {here}, which says nothing of N = {there}")
    if there <= _ROOM * _scaled_from(quality):
        return None
    at_quality, at_cost = quality.facts.get("reach"), cost.facts.get("reach")
    if not isinstance(at_quality, float | int) or not isinstance(at_cost, float | int):
        return Refusal("other regime", f"it does not declare which share of the keys it sees at N = {here} and {there}")
    if at_quality > _ROOM * at_cost:
        shares = f"{share(at_quality)} of the keys at N = {here} and {share(at_cost)} at N = {there}"
        return Refusal("other regime", f"it sees {shares}")
    return None


def _scaled_from(quality: Row) -> float:
    """Return the length from which options were scaled to that of a quality, by the least change; 0 if none were."""
    options = quality.case.options
    factors = [
        float(own) / float(new)
        for name, new in quality.probe.scaled.items()
        if (own := options.get(name)) != new and isinstance(own, int | float) and isinstance(new, int | float) and new
    ]
    return quality.case.length * min(factors, default=0.0)


def share(value: float) -> str:
    """Render a share of the keys."""
    return f"{value:.0%}" if value >= _WHOLE_PERCENT else f"{value:.1%}"
