"""What stands under a table about its lengths: how each variant grows with them, and where one overtakes another."""

import math
from collections.abc import Iterable, Sequence

from msgspec import Struct

from attnbench.analysis.crossover import Crossover, crossovers
from attnbench.analysis.rows import Row
from attnbench.analysis.scaling import Growth, growths
from attnbench.contracts.case import Axes
from attnbench.report.axes import TITLES, Names, axis_text

_FEWEST_LENGTHS = 3  # of two, an exponent says no more than the table
_MOST_LINES = 16
_MOST_CROSSINGS = 8
GROWTH = "grows as N^p; p, its 95% interval, and p over the last doubling:"
NOTHING = "no variant has been measured at two lengths"
_MORE = "attnbench show RUN --scaling"


class Grown(Struct, frozen=True, kw_only=True):
    """A variant's exponent with its interval, and the exponent over the last doubling, as text."""

    name: str
    exponent: str
    local: str


def grown(rows: Iterable[Row], names: Names, labels: Sequence[str]) -> tuple[Grown, ...]:
    """Say how each variant grows over three lengths or more; `labels` are the axes that tell groups apart.

    Nothing where that would be longer than a table should be: `show --scaling` has all.
    """
    found = [each for each in growths(rows) if len(each.lengths) >= _FEWEST_LENGTHS]
    if len(found) > _MOST_LINES:
        return ()
    return tuple(
        Grown(name=_name(each, names, labels), exponent=exponent(each), local=_two(each.local)) for each in found
    )


def exponent(growth: Growth) -> str:
    """Write an exponent with its interval."""
    if growth.low is None or growth.high is None:
        return _two(growth.exponent)
    return f"{_two(growth.exponent)} [{_two(growth.low)}, {_two(growth.high)}]"


def crossings(rows: Iterable[Row], names: Names, labels: Sequence[str]) -> tuple[str, ...]:
    """Say where one variant overtakes another, those that concern the best ones first, and how many more there are."""
    told = [each for each in crossovers(rows) if each.sure or not _is_everywhere(each)]
    sentences = [
        f"{where(each.axes, labels)}{sentence(each, names[each.winner.identity], names[each.loser.identity])}"
        for each in told[:_MOST_CROSSINGS]
    ]
    left = len(told) - len(sentences)
    return (*sentences, *([f"and {left} more crossings: {_MORE}"] if left else []))


def listed(rows: Sequence[Row], names: Names) -> str:
    """Write all that is known of lengths: every exponent, and every crossing that is not the same pair's noise."""
    found, crossed = growths(rows), crossovers(rows)
    apart = differing([*(each.axes for each in found), *(each.axes for each in crossed)])
    blocks: dict[str, list[str]] = {}
    for each in found:
        heading = f"{each.metric}, {each.axes['passes']}: {GROWTH}"
        line = f"  {_name(each, names, apart)}  {exponent(each)}  {_two(each.local)}"
        blocks.setdefault(heading, []).append(line)
    for crossing in crossed:
        words = sentence(crossing, names[crossing.winner.identity], names[crossing.loser.identity])
        line = f"  {where(crossing.axes, apart)}{words}"
        blocks.setdefault(f"latency, {crossing.axes['passes']}: crossings", []).append(line)
    return "\n".join(line for heading, lines in blocks.items() for line in (heading, *lines)) or NOTHING


def differing(several: Sequence[Axes]) -> list[str]:
    """Name the axes that are not the same everywhere, but for the passes, which head what is said of them.

    As many heads of keys as of queries go without saying.
    """
    names = dict.fromkeys(name for axes in several for name in axes if name != "passes")
    return [
        name
        for name in names
        if len({axes.get(name) for axes in several}) > 1
        and not (name == "kv_heads" and all(axes.get(name) == axes.get("heads") for axes in several))
    ]


def as_dict(crossing: Crossover) -> dict[str, object]:
    """Give a crossing as plain data: both variants by name and options, the axes, and the lengths."""
    named = {
        side: {"variant": row.case.variant, "options": row.case.options, "origin": row.origin.name}
        for side, row in (("winner", crossing.winner), ("loser", crossing.loser))
    }
    plain = {name: getattr(crossing, name) for name in ("axes", "length", "low", "high", "sure", "between", "swept")}
    return {"run": crossing.winner.run, **named, **plain}


def sentence(crossing: Crossover, winner: str, loser: str) -> str:
    """Write a crossing as a sentence: linear overtakes flash at N = 2300 [2100, 2600]."""
    if crossing.low is None or crossing.high is None:
        doubt = "not sure: too few rounds for an interval"
        return f"{winner} overtakes {loser} near N = {_rounded(crossing.length, crossing.length / 10)} ({doubt})"
    half = (crossing.high - crossing.low) / 2
    low, middle, high = (_rounded(each, half) for each in (crossing.low, crossing.length, crossing.high))
    if crossing.sure:
        return f"{winner} overtakes {loser} at N = {middle} [{low}, {high}]"
    ends = (f"{low}{_end(crossing, crossing.low)}", f"{high}{_end(crossing, crossing.high)}")
    return f"{winner} overtakes {loser} near N = {middle} (not sure: {' to '.join(ends)})"


def _two(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # a zero without its sign


def _rounded(length: float, about: float) -> int:
    """Round a length to what its uncertainty leaves of it: one digit of that."""
    step = 10 ** max(0, math.floor(math.log10(about))) if about > 0 else 1
    return round(length / step) * step


def _end(crossing: Crossover, length: float) -> str:
    return " where the sweep ends" if length in crossing.swept else ""


def _is_everywhere(crossing: Crossover) -> bool:
    """Tell a pair that is the same within its noise at every length: where its noise crosses says nothing."""
    return (crossing.low, crossing.high) == crossing.swept


def _name(growth: Growth, names: Names, labels: Sequence[str]) -> str:
    name = names[growth.identity]
    return f"{where(growth.axes, labels)}{name}{' (one sequence)' if growth.per_sequence else ''}"


def where(axes: Axes, labels: Sequence[str]) -> str:
    """Say which of several settings is meant, by the axes in which they differ; empty where there is one."""
    told = [f"{TITLES[axis]} {axis_text(axes[axis])}" for axis in labels if axis in axes]
    return f"{', '.join(told)}: " if told else ""
