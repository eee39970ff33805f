"""Conditions that comparisons must not meet, as continuous integration states them: `slower:5%,higher`."""

import re
from collections.abc import Sequence
from typing import Literal, get_args

from msgspec import Struct

from attnbench.analysis.compare import Comparison, Verdict
from attnbench.contracts.errors import UsageError

GRAMMAR = (
    "slower, slower:5% (likewise faster, higher, lower), incomparable, inconclusive, or undecided where nothing has a "
    "verdict; join several by commas"
)
UNDECIDED = "undecided"
_WITH_SIZE = ("faster", "slower", "lower", "higher")
_CONDITION = re.compile(r"(?P<verdict>[a-z]+)(:(?P<percent>\d+(\.\d*)?|\.\d+)%)?")


class Condition(Struct, frozen=True, kw_only=True):
    """A verdict that is not allowed, and how far the ratio may leave 1 before it counts.

    `undecided` is that of all comparisons together: none has a verdict.
    """

    verdict: Verdict | Literal["undecided"]
    threshold: float = 0.0

    def concerns(self, pair: Comparison) -> bool:
        """Return whether a comparison could have the verdict: times are slower, anything else is higher."""
        if self.verdict in ("faster", "slower"):
            return pair.one.unit == "s"
        return self.verdict not in ("higher", "lower") or pair.one.unit != "s"

    def is_met(self, pair: Comparison) -> bool:
        """Return whether a comparison has the verdict beyond the threshold; a change from zero is beyond any."""
        if pair.verdict != self.verdict:
            return False
        return not self.threshold or pair.ratio is None or abs(pair.ratio - 1) > self.threshold


def read_conditions(text: str, *, flag: str) -> tuple[Condition, ...]:
    """Parse the value of `--fail-on`. Raises UsageError that shows the grammar."""
    return tuple(_condition(piece.strip(), flag) for piece in text.split(","))


def is_undecided(pairs: Sequence[Comparison], conditions: Sequence[Condition]) -> bool:
    """Return whether no comparison that the conditions are about has a verdict."""
    about = [condition for condition in conditions if condition.verdict != UNDECIDED] or conditions
    concerned = [pair for pair in pairs if any(condition.concerns(pair) for condition in about)]
    return all(pair.verdict in ("inconclusive", "incomparable") for pair in concerned)


def violations(pairs: Sequence[Comparison], conditions: Sequence[Condition]) -> list[Comparison]:
    """Return the comparisons that meet a condition."""
    return [pair for pair in pairs if any(condition.is_met(pair) for condition in conditions)]


def _condition(piece: str, flag: str) -> Condition:
    match = _CONDITION.fullmatch(piece)
    verdicts = [UNDECIDED, *(verdict for verdict in get_args(Verdict) if verdict != "same")]
    if match is None or match["verdict"] not in verdicts:
        raise UsageError(f"{flag}: {piece!r} is no condition; write {GRAMMAR}")
    verdict, percent = match["verdict"], match["percent"]
    if percent and verdict not in _WITH_SIZE:
        raise UsageError(f"{flag}: {verdict} has no size to be held to; write {GRAMMAR}")
    return Condition(verdict=verdict, threshold=float(percent or 0) / 100)  # type: ignore[arg-type]
