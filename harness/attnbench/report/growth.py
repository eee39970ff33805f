"""The lines under a table about its lengths: how each variant grows, and where one overtakes another."""

import math
from collections.abc import Iterable, Sequence

from msgspec import Struct

from attnbench.analysis.crossover import Crossover, crossovers
from attnbench.analysis.rows import Row
from attnbench.analysis.scaling import Growth, growths
from attnbench.contracts.case import Axes
from attnbench.report.axes import TITLES, VariantNames, axis_text

_FEWEST_LENGTHS = 3  # of two, an exponent adds nothing to the table
_MOST_LINES = 16
_MOST_CROSSINGS = 8
GROWTH = "growth exponent p of N^p: fit [95% interval], last doubling"
NOTHING = "no variant has been measured at two lengths, or its times in two rounds"
_MORE = "attnbench show RUN --scaling"


class GrowthLine(Struct, frozen=True, kw_only=True):
    """A variant's exponent with its interval, and the exponent over the last doubling, as text."""

    name: str
    exponent: str
    local: str


def growth_lines(rows: Iterable[Row], names: VariantNames, labels: Sequence[str]) -> tuple[GrowthLine, ...]:
    """Return how each variant grows over three lengths or more; `labels` are the axes in which groups differ.

    Empty where that would be longer than a table should be: `show --scaling` has all.
    """
    long = [growth for growth in growths(rows) if len(growth.lengths) >= _FEWEST_LENGTHS]
    if len(long) > _MOST_LINES:
        return ()
    return tuple(
        GrowthLine(name=_name(growth, names, labels), exponent=exponent(growth), local=_two_decimals(growth.local))
        for growth in long
    )


def exponent(growth: Growth) -> str:
    """Render an exponent with its interval."""
    if growth.low is None or growth.high is None:
        return _two_decimals(growth.exponent)
    return f"{_two_decimals(growth.exponent)} [{_two_decimals(growth.low)}, {_two_decimals(growth.high)}]"


def crossing_sentences(rows: Iterable[Row], names: VariantNames, labels: Sequence[str]) -> tuple[str, ...]:
    """Return where one variant overtakes another, the crossings of the best ones first, and how many more there are."""
    crossings = [crossing for crossing in crossovers(rows) if crossing.sure or not _is_everywhere(crossing)]
    sentences = [
        f"{where(crossing.axes, labels)}{sentence(crossing, names)}" for crossing in crossings[:_MOST_CROSSINGS]
    ]
    left = len(crossings) - len(sentences)
    return (*sentences, *([f"and {left} more crossings: {_MORE}"] if left else []))


def listed(rows: Sequence[Row], names: VariantNames) -> str:
    """Render every exponent and every crossing of rows."""
    fitted, crossings = growths(rows), crossovers(rows)
    labels = differing([*(growth.axes for growth in fitted), *(crossing.axes for crossing in crossings)])
    blocks: dict[str, list[str]] = {}
    for growth in fitted:
        heading = f"{growth.metric}, {growth.axes['passes']}: {GROWTH}"
        line = f"  {_name(growth, names, labels)}  {exponent(growth)}  {_two_decimals(growth.local)}"
        blocks.setdefault(heading, []).append(line)
    for crossing in crossings:
        line = f"  {where(crossing.axes, labels)}{sentence(crossing, names)}"
        blocks.setdefault(f"latency, {crossing.axes['passes']}: crossings", []).append(line)
    return "\n".join(line for heading, lines in blocks.items() for line in (heading, *lines)) or NOTHING


def differing(several: Sequence[Axes]) -> list[str]:
    """Return the axes that differ, but for the passes, which are part of a heading.

    Key and value heads are left out where they equal the query heads everywhere.
    """
    names = dict.fromkeys(name for axes in several for name in axes if name != "passes")
    return [
        name
        for name in names
        if len({axes.get(name) for axes in several}) > 1
        and not (name == "kv_heads" and all(axes.get(name) == axes.get("heads") for axes in several))
    ]


def as_dict(crossing: Crossover) -> dict[str, object]:
    """Return a crossing as plain data: both variants by name and options, the axes, and the lengths."""
    sides = {
        side: {"variant": row.case.variant, "options": row.case.options, "origin": row.origin.name}
        for side, row in (("winner", crossing.winner), ("loser", crossing.loser))
    }
    fields = {name: getattr(crossing, name) for name in ("axes", "length", "low", "high", "sure", "between", "swept")}
    return {"run": crossing.winner.run, **sides, **fields}


def sentence(crossing: Crossover, names: VariantNames) -> str:
    """Render a crossing as a sentence: linear overtakes flash at N = 2300 [2100, 2600]."""
    overtakes = f"{names[crossing.winner.identity]} overtakes {names[crossing.loser.identity]}"
    if crossing.low is None or crossing.high is None:
        doubt = "uncertain: too few rounds for an interval"
        return f"{overtakes} near N = {_rounded(crossing.length, crossing.length / 10)} ({doubt})"
    half = (crossing.high - crossing.low) / 2
    low, middle, high = (_rounded(length, half) for length in (crossing.low, crossing.length, crossing.high))
    if crossing.sure:
        return f"{overtakes} at N = {middle} [{low}, {high}]"
    shortest, longest = crossing.swept
    start = f"{shortest} (shortest measured)" if crossing.low == shortest else low
    end = f"{longest} (longest measured)" if crossing.high == longest else high
    return f"{overtakes} near N = {middle} (uncertain: between {start} and {end})"


def _two_decimals(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # a zero without its sign


def _rounded(length: float, uncertainty: float) -> int:
    """Round a length to one digit of its uncertainty."""
    step = 10 ** max(0, math.floor(math.log10(uncertainty))) if uncertainty > 0 else 1
    return round(length / step) * step


def _is_everywhere(crossing: Crossover) -> bool:
    """Return whether two variants are indistinguishable at every length; where their noise crosses means nothing."""
    return (crossing.low, crossing.high) == crossing.swept


def _name(growth: Growth, names: VariantNames, labels: Sequence[str]) -> str:
    fitted = f" (N = {growth.lengths[0]} to {growth.lengths[-1]})" if growth.left_out else ""
    name = f"{names[growth.identity]}{' (one sequence)' * growth.per_sequence}{fitted}"
    return f"{where(growth.axes, labels)}{name}"


def where(axes: Axes, labels: Sequence[str]) -> str:
    """Return the prefix that identifies one of several settings by the axes in which they differ; empty for one."""
    values = [f"{TITLES[axis]} {axis_text(axes[axis])}" for axis in labels if axis in axes]
    return f"{', '.join(values)}: " if values else ""
