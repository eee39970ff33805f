"""Comparisons of two runs, or of two variants of one: the ratio, its interval, and a verdict with its reason.

The replicate is the round: times of one run are compared round by round, those of two runs as two samples of rounds.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from attnbench.analysis.aa_floor import Floor, aa_floor
from attnbench.analysis.match import Pair, TwoSpecs, match
from attnbench.analysis.rows import Row
from attnbench.contracts import stats
from attnbench.contracts.stats import FEWEST_REPLICATES, Difference

Verdict = Literal["faster", "slower", "lower", "higher", "same", "inconclusive", "incomparable"]

FALSE_SHARE = 0.05  # q of Benjamini and Hochberg
SMALLEST_EFFECT = 0.01  # a smaller one is of no interest, however sure
_EXACT = {"memory": "counted once, not sampled"}
_COMPUTED = "computed once from the seed, not sampled"


class Comparison(Pair, frozen=True, kw_only=True):
    """A pair of rows with its verdict; `report.flat` has it as columns."""

    ratio: Annotated[
        float | None, Meta(description="new over base: of the geometric means over rounds, or of the means over seeds")
    ] = None
    low: Annotated[float | None, Meta(description="lower end of the ratio's 95% interval")] = None
    high: Annotated[float | None, Meta(description="upper end of it")] = None
    verdict: Annotated[Verdict, Meta(description="what the test shows, or that it shows nothing")] = "incomparable"
    why: Annotated[str, Meta(description="what the verdict rests on")] = ""
    band: Annotated[float, Meta(description="the share that an effect must exceed to be called one")]
    p: Annotated[float | None, Meta(description="two-sided p-value of the rounds alone")] = None
    p_adjusted: Annotated[
        float | None, Meta(description="p-value of the rounds and the A/A floor, for the number of comparisons")
    ] = None

    @property
    def base_value(self) -> float | None:
        """The base's value: where times are tested, their geometric mean over the rounds, as in the ratio."""
        return self._centre(0)

    @property
    def new_value(self) -> float | None:
        """The new value, likewise."""
        return self._centre(1)

    def _centre(self, side: Literal[0, 1]) -> float | None:
        if self.has_log_ratio:
            logs = [math.log(value) for value in self.rounds[side].values()]
            return math.exp(math.fsum(logs) / len(logs))
        row = (self.base, self.new)[side]
        return row.value if row else None

    @property
    def has_newly_failed(self) -> bool:
        """Whether the base has a value, and the new case was tried and has none."""
        return self.base_value is not None and self.new is not None and self.new.has_failed

    @property
    def base_run(self) -> str:
        """The base's run; empty where there is no such row."""
        return self.base.run if self.base else ""

    @property
    def new_run(self) -> str:
        """The new row's run; empty where there is no such row."""
        return self.new.run if self.new else ""

    @property
    def base_rounds(self) -> int:
        """The number of rounds, or seeds, of the base that were compared."""
        return len(self.rounds[0])

    @property
    def new_rounds(self) -> int:
        """The number of rounds, or seeds, of the new side that were compared."""
        return len(self.rounds[1])

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags of both sides, each once."""
        return tuple(dict.fromkeys((*self.one.flags, *self.other.flags)))


class GeometricMean(Struct, frozen=True, kw_only=True):
    """The geometric mean of new over base over all `cells`; the interval is null below 3 rounds of every cell."""

    ratio: float
    low: float | None = None
    high: float | None = None
    cells: int


class Comparisons(Struct, frozen=True, kw_only=True):
    """All comparisons of a sweep, in the base's order; `differs` names the differences that --force ignored."""

    pairs: tuple[Comparison, ...]
    mean: GeometricMean | None
    floor: float | None  # the larger A/A floor of the runs
    differs: tuple[str, ...] = ()


class _Test(Struct, frozen=True, kw_only=True):
    """A tested difference, of logarithms or of plain values, and the smallest effect that counts, in the same terms."""

    difference: Difference
    limit: float
    base: float | None = None  # what a plain difference is a share of

    def ratio(self, difference: float) -> float | None:
        """Return a difference as a ratio; None for plain values whose base is zero."""
        if self.base is None:
            return math.exp(difference)
        return 1 + difference / abs(self.base) if self.base else None


def compare(
    base: Sequence[Row],
    new: Sequence[Row],
    *,
    metrics: Collection[str] | None = None,
    variants: TwoSpecs | None = None,
    ignoring: Collection[str] = (),
) -> Comparisons:
    """Compare rows of one run with those of another, or two variants of the same rows; the arguments are `match`'s.

    Times are tested on the logarithms of the process medians: paired by round within a run, by Welch's t across runs;
    accuracies by Welch's t on the seeds' scores. The p-value of a time is the largest of its own and those of its
    difference under the A/A floors of the runs. All tests are one family (Benjamini-Hochberg, q = 0.05). Besides
    significance, faster and slower need an effect beyond 1% and beyond the floors; same needs the 90% interval within
    that band.
    """
    pairs = match(base, new, metrics=metrics, variants=variants, ignoring=ignoring)
    floors = [floor for rows in (base, new) if (floor := aa_floor(rows)) is not None]
    return Comparisons(pairs=compare_pairs(pairs, floors), mean=geometric_mean(pairs), floor=_share(floors))


def compare_pairs(pairs: Sequence[Pair], floors: Sequence[Floor]) -> tuple[Comparison, ...]:
    """Compare pairs as one family of tests; `floors` are the A/A floors of their runs."""
    timed_band = max(SMALLEST_EFFECT, _share(floors) or 0)
    bands = [timed_band if pair.one.probe.kind == "latency" else SMALLEST_EFFECT for pair in pairs]
    tests = [_test(pair, band) for pair, band in zip(pairs, bands, strict=True)]
    p_values = [_p(pair, test, floors) for pair, test in zip(pairs, tests, strict=True) if test]
    adjusted = iter(stats.benjamini_hochberg(p_values))
    return tuple(
        _tested(_draft(pair, band), test, next(adjusted)) if test else _untested(_draft(pair, band))
        for pair, band, test in zip(pairs, bands, tests, strict=True)
    )


def geometric_mean(pairs: Iterable[Pair]) -> GeometricMean | None:
    """Return the mean of the log ratios of the latencies over cells; None where there are none.

    Cells are averaged within a round and rounds are the replicates: paired in one run, by Welch's t across two. What
    the cells of a round have in common therefore counts once, not once a cell.
    """
    timed = [pair for pair in pairs if pair.metric == "latency" and not pair.obstacle and _is_positive(pair)]
    replicated = [pair for pair in timed if min(map(len, pair.rounds)) >= FEWEST_REPLICATES]
    base, new = (_mean_logs([pair.rounds[side] for pair in replicated]) for side in (0, 1))
    if min(len(base), len(new)) < FEWEST_REPLICATES:
        values = [(row.value or 0 for row in (pair.base, pair.new) if row) for pair in timed]
        logs = [math.log(after / before) for before, after in values if before and after]
        return GeometricMean(ratio=math.exp(math.fsum(logs) / len(logs)), cells=len(logs)) if logs else None
    test = _difference(base, new, paired=replicated[0].paired)
    return GeometricMean(
        ratio=math.exp(test.estimate), low=math.exp(test.low), high=math.exp(test.high), cells=len(replicated)
    )


def _mean_logs(cells: Sequence[dict[int, float]]) -> list[float]:
    """Return the mean logarithm over cells of each round that all of them have."""
    shared = sorted(set.intersection(*(set(cell) for cell in cells))) if cells else []
    return [math.fsum(math.log(cell[number]) for cell in cells) / len(cells) for number in shared]


def _is_positive(pair: Pair) -> bool:
    return all(row is not None and min(row.medians.values(), default=0) > 0 for row in (pair.base, pair.new))


def _share(floors: Iterable[Floor]) -> float | None:
    return max((floor.share for floor in floors), default=None)


def _draft(pair: Pair, band: float) -> Comparison:
    return Comparison(metric=pair.metric, base=pair.base, new=pair.new, why=pair.obstacle, band=band)


def _test(pair: Pair, band: float) -> _Test | None:
    """Test a pair's difference; None where it has too few replicates."""
    base, new = (list(figures.values()) for figures in pair.rounds)
    if pair.has_log_ratio:
        before, after = ([math.log(value) for value in values] for values in (base, new))
        return _Test(difference=_difference(before, after, paired=pair.paired), limit=math.log1p(band))
    if pair.is_replicated and pair.one.probe.metric.replicates == "seeds":
        centre = math.fsum(base) / len(base)
        size = abs(centre) or max(map(abs, new))
        return _Test(difference=stats.welch(base, new), limit=band * size, base=centre)
    return None


def _is_exact(pair: Pair) -> bool:
    """Return whether one value is exact: no replicates."""
    return pair.one.probe.metric.replicates == "none"


def _difference(base: Sequence[float], new: Sequence[float], *, paired: bool) -> Difference:
    if not paired:
        return stats.welch(base, new)
    return stats.paired([after - before for before, after in zip(base, new, strict=True)])


def _p(pair: Pair, test: _Test, floors: Sequence[Floor]) -> float:
    """Return the p-value of a difference: the largest of its own rounds' and the runs' A/A floors'.

    A few rounds may agree by luck; only the floor tells how much the same case differs from itself.
    """
    difference = test.difference
    if pair.one.probe.kind != "latency":
        return difference.p
    base, new = pair.rounds
    return max([difference.p, *(floor.p(difference.estimate, (len(base), len(new))) for floor in floors)])


def _tested(draft: Comparison, test: _Test, p_adjusted: float) -> Comparison:
    """Complete a draft with the verdict of its test."""
    difference = test.difference
    significant, beyond = p_adjusted <= FALSE_SHARE, abs(difference.estimate) > test.limit
    within = -test.limit < difference.low90 and difference.high90 < test.limit
    verdict: Verdict = "inconclusive"
    if significant and beyond:
        verdict, why = (
            _direction(draft, difference.estimate),
            f"adjusted p {p_adjusted:.2g}, and beyond {draft.band:.1%}",
        )
    elif within and draft.band > stats.NOISY:
        why = f"the 90% interval is within {draft.band:.1%}, but that is too wide a band to call anything the same"
    elif within:
        verdict, why = "same", f"the 90% interval is within {draft.band:.1%}"
    elif significant:
        why = f"adjusted p {p_adjusted:.2g}, but not beyond {draft.band:.1%}"
    else:
        why = f"adjusted p {p_adjusted:.2g}, and the 90% interval is not within {draft.band:.1%}"
    return msgspec.structs.replace(
        draft,
        ratio=test.ratio(difference.estimate),
        low=test.ratio(difference.low),
        high=test.ratio(difference.high),
        verdict=verdict,
        why=why,
        p=difference.p,
        p_adjusted=p_adjusted,
    )


def _untested(draft: Comparison) -> Comparison:
    """Complete a draft without replicates to test: exact values are compared as they are, others are inconclusive."""
    base, new = draft.base_value, draft.new_value
    if base is None or new is None:
        return draft
    ratio = new / base if base else None
    if _is_exact(draft):
        verdict, why = _exact_verdict(draft, new - base, ratio), _EXACT.get(draft.one.probe.kind, _COMPUTED)
    else:
        verdict, why = "inconclusive", _why_untested(draft)
    return msgspec.structs.replace(draft, ratio=ratio, verdict=verdict, why=why)


def _exact_verdict(draft: Comparison, effect: float, ratio: float | None) -> Verdict:
    within = abs(math.log(ratio)) <= math.log1p(draft.band) if ratio and ratio > 0 else effect == 0
    return "same" if within else _direction(draft, effect)


def _why_untested(draft: Comparison) -> str:
    base, new = draft.base_rounds, draft.new_rounds
    if min(base, new) >= FEWEST_REPLICATES:
        return "there are values of zero or less, of which there is no ratio"
    unit = "seed" if draft.one.probe.metric.replicates == "seeds" else "round"
    if draft.paired:
        return f"{base} {unit}{'s' * (base != 1)} in common; a verdict needs {FEWEST_REPLICATES}"
    counts = str(base) if base == new else f"{base} and {new}"
    return f"{counts} {unit}{'s' * (counts != '1')}; a verdict needs {FEWEST_REPLICATES} on each side"


def _direction(draft: Comparison, effect: float) -> Verdict:
    if draft.one.unit == "s":
        return "slower" if effect > 0 else "faster"
    return "higher" if effect > 0 else "lower"
