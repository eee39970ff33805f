"""Two runs, or two variants of one, cell by cell: the ratio, how sure it is, and a verdict that says why.

The replicate is the round: times of one run are compared round by round, those of two runs as two samples of rounds.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from attnbench.analysis.floor import Floor, aa_floor
from attnbench.analysis.match import Pair, Two, match
from attnbench.analysis.mean import Mean, geometric_mean
from attnbench.analysis.rows import Row
from attnbench.contracts import stats
from attnbench.contracts.case import Dtype, Inputs, Level, Option, Passes
from attnbench.contracts.record import ProbeKind
from attnbench.contracts.stats import FEWEST_REPLICATES, Difference

Verdict = Literal["faster", "slower", "lower", "higher", "same", "inconclusive", "incomparable"]

FALSE_SHARE = 0.05  # q of Benjamini and Hochberg
SMALLEST_EFFECT = 0.01  # a smaller one is of no interest, however sure
_COUNTED: dict[ProbeKind, str] = {
    "memory": "counted once, not sampled",
    "agreement": "computed once from the seed, not sampled",
}


class Comparison(Struct, frozen=True, kw_only=True):
    """One metric of one case on both sides. Names and order up to `why` are a promise; later ones may follow.

    `variant`, `options` and `origin` are those of the base; the new ones stand at the end.
    """

    variant: str
    options: dict[str, Option]
    origin: str
    passes: Passes
    level: Level
    task: str
    seq_q: int
    seq_k: int
    heads: int
    kv_heads: int
    head_dim: int
    batch: int
    dtype: Dtype
    device: str
    causal: bool
    window: int | None
    inputs: Inputs
    seed: int
    metric: str
    base: float | None
    new: float | None
    ratio: float | None = None  # new over base: of the geometric means over rounds, or of the means over seeds
    low: float | None = None  # the 95% interval
    high: float | None = None
    verdict: Verdict
    why: str
    unit: str
    paired: bool  # by round, within one run
    base_rounds: int
    new_rounds: int
    band: float  # the share that an effect must exceed to be called one
    p: float | None = None  # of the rounds alone
    p_adjusted: float | None = None  # of the rounds and the A/A floor, for the number of comparisons
    flags: tuple[str, ...]
    probe: ProbeKind
    higher_is_better: bool
    base_run: str
    new_run: str
    new_variant: str
    new_options: dict[str, Option]
    new_origin: str
    shape_name: str = ""


class Comparisons(Struct, frozen=True, kw_only=True):
    """All pairs of a sweep, in the base's order, with what they have in common; `differs` is what was forced."""

    pairs: tuple[Comparison, ...]
    mean: Mean | None
    floor: float | None  # the larger A/A floor of the runs
    differs: tuple[str, ...] = ()


# The columns that a comparison has from either of its rows as they are.
_OF_EITHER = tuple(
    name
    for name in Comparison.__struct_fields__
    if name in Row.__struct_fields__ and name not in ("metric", "low", "high", "flags")
)


class _Test(Struct, frozen=True, kw_only=True):
    """A tested difference, of logarithms or of plain values, and the size that an effect must have in its terms."""

    difference: Difference
    limit: float
    base: float | None = None  # what a plain difference is a share of

    def ratio(self, difference: float) -> float | None:
        """Say a difference as a ratio; of plain values whose base is zero there is none."""
        if self.base is None:
            return math.exp(difference)
        return 1 + difference / abs(self.base) if self.base else None


def compare(
    base: Sequence[Row],
    new: Sequence[Row],
    *,
    metrics: Collection[str] | None = None,
    variants: Two | None = None,
    ignoring: Collection[str] = (),
) -> Comparisons:
    """Compare rows of one run with those of another, or two variants of the same rows; arguments as of `match`.

    Times are tested on the logarithms of the process medians: paired by round within a run, by Welch's t across runs;
    accuracies by Welch's t on the seeds' scores. A time's p is the larger of its own and of what the A/A floors of the
    runs make of its difference. All tests are one family (Benjamini-Hochberg, q = 0.05). Beside significance, faster
    and slower need an effect beyond 1% and beyond the floors; same needs the 90% interval within that band.
    """
    pairs = match(base, new, metrics=metrics, variants=variants, ignoring=ignoring)
    floors = [floor for rows in (base, new) if (floor := aa_floor(rows)) is not None]
    return Comparisons(pairs=judged(pairs, floors), mean=geometric_mean(pairs), floor=_share(floors))


def judged(pairs: Sequence[Pair], floors: Sequence[Floor]) -> tuple[Comparison, ...]:
    """Compare pairs as one family of tests; `floors` are the A/A floors of the runs that they are of."""
    share = _share(floors)
    bands = [max(SMALLEST_EFFECT, share or 0) if pair.one.probe == "latency" else SMALLEST_EFFECT for pair in pairs]
    tests = [_test(pair, band) for pair, band in zip(pairs, bands, strict=True)]
    likely = [_p(pair, test, floors) for pair, test in zip(pairs, tests, strict=True) if test]
    adjusted = iter(stats.benjamini_hochberg(likely))
    return tuple(
        _tested(_drafted(pair, band), test, next(adjusted)) if test else _untested(_drafted(pair, band))
        for pair, band, test in zip(pairs, bands, tests, strict=True)
    )


def _share(floors: Iterable[Floor]) -> float | None:
    return max((floor.share for floor in floors), default=None)


def _drafted(pair: Pair, band: float) -> Comparison:
    """Write down what is known of a pair before it is judged."""
    base, new = pair.base or pair.one, pair.new or pair.one
    base_rounds, new_rounds = map(len, pair.rounds)
    columns = {name: getattr(pair.one, name) for name in _OF_EITHER}
    return Comparison(
        **columns,
        metric=pair.metric,
        base=pair.base.value if pair.base else None,
        new=pair.new.value if pair.new else None,
        verdict="incomparable",
        why=pair.obstacle,
        paired=pair.paired,
        base_rounds=base_rounds,
        new_rounds=new_rounds,
        band=band,
        flags=tuple(dict.fromkeys((*base.flags, *new.flags))),
        base_run=base.run if pair.base else "",
        new_run=new.run if pair.new else "",
        new_variant=new.variant,
        new_options=new.options,
        new_origin=new.origin,
    )


def _test(pair: Pair, band: float) -> _Test | None:
    """Test a pair's difference, where it has the replicates for it."""
    base, new = (list(figures.values()) for figures in pair.rounds)
    if pair.obstacle or pair.one.probe in _COUNTED or min(len(base), len(new)) < FEWEST_REPLICATES:
        return None
    if pair.one.probe == "accuracy":
        centre = math.fsum(base) / len(base)
        size = abs(centre) or max(map(abs, new))
        return _Test(difference=stats.welch(base, new), limit=band * size, base=centre)
    if min(*base, *new) <= 0:
        return None
    return _Test(difference=_of_logs(base, new, paired=pair.paired), limit=math.log1p(band))


def _of_logs(base: Sequence[float], new: Sequence[float], *, paired: bool) -> Difference:
    before, after = ([math.log(value) for value in values] for values in (base, new))
    if not paired:
        return stats.welch(before, after)
    return stats.paired([late - early for early, late in zip(before, after, strict=True)])


def _p(pair: Pair, test: _Test, floors: Sequence[Floor]) -> float:
    """Say how likely a difference is by chance: by its own rounds, and by what the runs make of no difference.

    A few rounds may agree by luck; that the same case differs as much from itself, they do not tell.
    """
    found = test.difference
    if pair.one.probe != "latency":
        return found.p
    base, new = pair.rounds
    return max([found.p, *(floor.p(found.estimate, (len(base), len(new))) for floor in floors)])


def _tested(draft: Comparison, test: _Test, p_adjusted: float) -> Comparison:
    """Judge a pair by its test."""
    found = test.difference
    significant, beyond = p_adjusted <= FALSE_SHARE, abs(found.estimate) > test.limit
    within = -test.limit < found.low90 and found.high90 < test.limit
    verdict: Verdict = "inconclusive"
    if significant and beyond:
        verdict, why = _direction(draft, found.estimate), f"adjusted p {p_adjusted:.2g}, and beyond {draft.band:.1%}"
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
        ratio=test.ratio(found.estimate),
        low=test.ratio(found.low),
        high=test.ratio(found.high),
        verdict=verdict,
        why=why,
        p=found.p,
        p_adjusted=p_adjusted,
    )


def _untested(draft: Comparison) -> Comparison:
    """Judge a pair that has no replicates to test: a count by itself, anything else not at all."""
    if draft.base is None or draft.new is None:
        return draft
    ratio = draft.new / draft.base if draft.base else None
    if draft.probe in _COUNTED:
        verdict, why = _of_counts(draft, draft.new - draft.base, ratio), _COUNTED[draft.probe]
    else:
        verdict, why = "inconclusive", _too_little(draft)
    return msgspec.structs.replace(draft, ratio=ratio, verdict=verdict, why=why)


def _of_counts(draft: Comparison, effect: float, ratio: float | None) -> Verdict:
    within = abs(math.log(ratio)) <= math.log1p(draft.band) if ratio and ratio > 0 else effect == 0
    return "same" if within else _direction(draft, effect)


def _too_little(draft: Comparison) -> str:
    base, new = draft.base_rounds, draft.new_rounds
    if min(base, new) >= FEWEST_REPLICATES:
        return "there are values of zero or less, of which there is no ratio"
    unit = "seed" if draft.probe == "accuracy" else "round"
    if draft.paired:
        return f"{base} {unit}{'s' * (base != 1)} in common; a verdict needs {FEWEST_REPLICATES}"
    counts = str(base) if base == new else f"{base} and {new}"
    return f"{counts} {unit}{'s' * (counts != '1')}; a verdict needs {FEWEST_REPLICATES} on each side"


def _direction(draft: Comparison, effect: float) -> Verdict:
    if draft.unit == "s":
        return "slower" if effect > 0 else "faster"
    return "higher" if effect > 0 else "lower"
