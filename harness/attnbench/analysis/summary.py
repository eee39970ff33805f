"""The summary of a run: the best variant at each length, by how much, and the test behind it.

The sentences about a run are made from this; a difference that no test has shown is in no `sure` lead.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from attnbench.analysis.aa_floor import Floor, aa_floor
from attnbench.analysis.compare import Comparison, compare_pairs
from attnbench.analysis.crossover import Crossover, crossovers
from attnbench.analysis.curves import ALONG, CurveGroup, curve_groups
from attnbench.analysis.groups import group_by
from attnbench.analysis.held import memory_metric
from attnbench.analysis.match import Pair
from attnbench.analysis.rows import Row
from attnbench.contracts.case import Axes, Identity
from attnbench.contracts.metrics import TRAINED
from attnbench.contracts.record import PENDING

CLOSE = 0.01  # a relative error against exact attention below which a mechanism may take its place
_ERROR = "approximation_error"

_Key = tuple[object, ...]
# By setting, faster variant and slower variant: the lengths where that is shown, each with its batch.
_Shown = dict[tuple[_Key, Identity, Identity], list[tuple[int, int]]]


class Lead(Struct, frozen=True, kw_only=True):
    """The best row at a length; `rival` compares it (as new) with its closest rival (as base).

    `undecided` are the rows that it is not shown to be better than. `axes` are all but the variant and the length,
    empty for a task.
    """

    metric: str
    axes: Axes
    length: int
    best: Row
    rival: Comparison
    undecided: tuple[Row, ...]

    @property
    def sure(self) -> bool:
        """Whether it is shown to be better than every other row."""
        return not self.undecided

    @property
    def even(self) -> bool:
        """Whether the two best are shown to be the same."""
        return self.rival.verdict == "same"


class AgainstBaseline(Struct, frozen=True, kw_only=True):
    """Comparisons of the variants of a setting with the sweep's first one, the base, length by length."""

    axes: Axes
    pairs: tuple[Comparison, ...]


class Summary(Struct, frozen=True, kw_only=True):
    """The findings of one run.

    `leads` are of latency, memory and accuracy; `close` of latency among variants that are exact or within CLOSE of it;
    `against` compares every variant with the sweep's first; `crossings` have both of their sides shown, `crossed` are
    all; `errors` are those at the longest length of each setting; `rounds` is the largest number of rounds of a
    latency.
    """

    run: str
    baseline: Row | None
    leads: tuple[Lead, ...]
    close: tuple[Lead, ...]
    against: tuple[AgainstBaseline, ...]
    crossings: tuple[Crossover, ...]
    crossed: tuple[Crossover, ...]
    errors: tuple[Row, ...]
    missing: tuple[Row, ...]
    noisy: int
    timed: int
    rounds: int
    floor: float | None


class _Ranking(Struct, frozen=True):
    """Comparable rows of one metric at one length, the best first."""

    axes: Axes
    length: int
    rows: tuple[Row, ...]


def summarise(rows: Iterable[Row]) -> Summary:
    """Summarise the rows of one run.

    The best of a ranking is tested against all others of it, and then against its closest rival in a family of such
    pairs alone (Benjamini-Hochberg, as in `compare`): a lead is sure only if it passes both.
    """
    shown = [row for row in rows if not row.is_harness]
    floors = [floor] if (floor := aa_floor(shown)) else []
    timed = [row for row in shown if row.metric == "latency" and row.value]
    groups = curve_groups(timed)
    rankings = [ranking for group in groups for ranking in _rankings(group)]
    memory = [row for row in shown if row.metric == memory_metric(shown)]
    memory_rankings = [ranking for group in curve_groups(memory) for ranking in _rankings(group)]
    against = _against(groups, floors)
    leads = _leads(rankings, floors)
    tested = [*(pair for one in against for pair in one.pairs), *(lead.rival for lead in leads)]
    is_faster, crossed = _shown(tested), tuple(crossovers(row for row in shown if row.metric == "latency"))
    return Summary(
        run=shown[0].run if shown else "",
        baseline=timed[0] if timed else None,
        leads=(*leads, *_leads(memory_rankings, floors), *_leads(_score_rankings(shown), floors)),
        close=_leads(_near_exact(rankings, shown), floors),
        against=against,
        crossings=tuple(crossing for crossing in crossed if _is_shown(crossing, is_faster)),
        crossed=crossed,
        errors=_errors(shown),
        missing=tuple(row for row in shown if row.primary and row.value is None and row.detail != PENDING),
        noisy=sum(row.noise == "very noisy" for row in timed),
        timed=len(timed),
        rounds=max((row.rounds for row in timed), default=0),
        floor=floors[0].share if floors else None,
    )


def is_better(pair: Comparison) -> bool:
    """Return whether the new side is shown to be better than the base."""
    wanted = "faster" if pair.one.unit == "s" else "higher" if pair.one.higher_is_better else "lower"
    return pair.verdict == wanted


def _rankings(group: CurveGroup) -> Iterator[_Ranking]:
    lengths = sorted({length for curve in group.curves for length in curve.rows})
    for length in lengths:
        rows = [curve.rows[length] for curve in group.curves if length in curve.rows]
        yield _Ranking(group.axes, length, _best_first(rows))


def _best_first(rows: Sequence[Row]) -> tuple[Row, ...]:
    sign = -1 if rows[0].higher_is_better else 1
    return tuple(sorted(rows, key=lambda row: sign * (row.value or 0)))


def _leads(rankings: Sequence[_Ranking], floors: Sequence[Floor]) -> tuple[Lead, ...]:
    contested = [ranking for ranking in rankings if len(ranking.rows) > 1]
    pairs = [
        [Pair(metric=row.metric, base=row, new=ranking.rows[0]) for row in ranking.rows[1:]] for ranking in contested
    ]
    verdicts = iter(compare_pairs([pair for group in pairs for pair in group], floors))
    comparisons = [[next(verdicts) for _ in group] for group in pairs]
    closest = [min(range(len(group)), key=lambda index: _ease(group[index])) for group in comparisons]
    rivals = compare_pairs([group[index] for group, index in zip(pairs, closest, strict=True)], floors)
    return tuple(map(_lead, contested, comparisons, closest, rivals))


def _lead(ranking: _Ranking, comparisons: Sequence[Comparison], closest: int, rival: Comparison) -> Lead:
    verdicts = [*comparisons[:closest], rival, *comparisons[closest + 1 :]]
    best, *others = ranking.rows
    undecided = tuple(row for row, pair in zip(others, verdicts, strict=True) if not is_better(pair))
    return Lead(
        metric=best.metric, axes=ranking.axes, length=ranking.length, best=best, rival=rival, undecided=undecided
    )


def _ease(pair: Comparison) -> tuple[bool, float, float]:
    """Return a sort key: how easily the new side is told from the base."""
    distance = abs(math.log(pair.ratio)) if pair.ratio and pair.ratio > 0 else math.inf
    return is_better(pair), -(1.0 if pair.p is None else pair.p), distance


def _against(groups: Sequence[CurveGroup], floors: Sequence[Floor]) -> tuple[AgainstBaseline, ...]:
    """Compare every variant with the first of its group, at each length that both have."""
    pairs = [
        [
            Pair(metric=row.metric, base=base, new=row)
            for curve in group.curves[1:]
            for length, row in curve.rows.items()
            if (base := group.curves[0].rows.get(length))
        ]
        for group in groups
    ]
    verdicts = iter(compare_pairs([pair for of_group in pairs for pair in of_group], floors))
    return tuple(
        AgainstBaseline(axes=group.axes, pairs=tuple(next(verdicts) for _ in of_group))
        for group, of_group in zip(groups, pairs, strict=True)
    )


def _near_exact(rankings: Iterable[_Ranking], rows: Iterable[Row]) -> list[_Ranking]:
    """Return the rankings of the variants that are exact, or err little on the same inputs, where the best is not."""
    errors = {_key(row): row.value for row in rows if row.metric == _ERROR and row.value is not None}
    near = []
    for ranking in rankings:
        kept = tuple(row for row in ranking.rows if row.facts.get("exact") or errors.get(_key(row), math.inf) <= CLOSE)
        if kept and kept[0] is not ranking.rows[0]:
            near.append(_Ranking(ranking.axes, ranking.length, kept))
    return near


def _key(row: Row) -> _Key:
    return *row.identity, *row.case.axes(without=("shape_name",)).values()


def _setting(row: Row | Comparison) -> _Key:
    """Return the axes of a setting: all but the lengths and the batch that may follow them."""
    return tuple(row.case.axes(without=(*ALONG, "shape_name")).values())


def _score_rankings(rows: Iterable[Row]) -> list[_Ranking]:
    """Return the rankings of the scores of trained models, by task, length and model."""
    scores = [row for row in rows if row.probe.kind in TRAINED and row.primary and row.value is not None]
    groups = group_by(scores, lambda row: (row.task, *_setting(row), row.case.length)).values()
    return [_Ranking({}, group[0].case.length, _best_first(group)) for group in groups]


def _errors(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Return the errors against exact attention at the longest length of each setting, the smallest first."""
    errors = [row for row in rows if row.metric == _ERROR and row.value is not None]
    settings = group_by(errors, _setting).values()
    return tuple(row for group in settings for row in _best_first(_longest(group)))


def _longest(rows: Sequence[Row]) -> list[Row]:
    """Return one row of each variant, at the longest length of all."""
    longest = max(map(_lengths, rows))
    return list({row.identity: row for row in rows if _lengths(row) == longest}.values())


def _lengths(row: Row) -> tuple[int, int]:
    return row.case.shape.seq_q, row.case.shape.seq_k


def _shown(pairs: Iterable[Comparison]) -> _Shown:
    shown: _Shown = {}
    for pair in pairs:
        if pair.verdict not in ("faster", "slower"):
            continue
        sides = [pair.other.identity, pair.one.identity]
        faster, slower = sides if pair.verdict == "faster" else sides[::-1]
        shown.setdefault((_setting(pair), faster, slower), []).append((pair.case.length, pair.case.shape.batch))
    return shown


def _is_shown(crossing: Crossover, is_faster: _Shown) -> bool:
    """Return whether both sides of a crossing are shown: of many pairs some cross by chance."""
    setting, batch = _setting(crossing.winner), crossing.axes.get("batch")
    winner, loser = crossing.winner.identity, crossing.loser.identity
    before, after = (
        [length for length, of in is_faster.get((setting, *pair), ()) if batch in (None, of)]
        for pair in ((loser, winner), (winner, loser))
    )
    start, end = crossing.between
    return crossing.sure and min(before, default=end) <= start and max(after, default=start) >= end
