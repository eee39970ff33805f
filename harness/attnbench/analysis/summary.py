"""The summary of a run: the best variant at each length, by how much, and the test behind it.

Sentences about a run are made from this; a difference that no test has shown is in no `sure` lead.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from attnbench.analysis.compare import Comparison, judged
from attnbench.analysis.courses import ALONG, Field, fields
from attnbench.analysis.crossover import Crossover, crossovers
from attnbench.analysis.floor import Floor, aa_floor, is_harness
from attnbench.analysis.match import Pair
from attnbench.analysis.rows import Row
from attnbench.contracts.case import Axes, Identity
from attnbench.contracts.record import PENDING

CLOSE = 0.01  # a relative error against exact attention below which a mechanism may take its place
_ERROR = "approximation_error"

Key = tuple[object, ...]
Better = dict[tuple[Key, Identity, Identity], list[tuple[int, int]]]


class Lead(Struct, frozen=True, kw_only=True):
    """Who is best in one cell of a sweep. `rival` compares it (as new) with the one that is hardest to beat (as base).

    `level` are those that it is not shown to be better than. `axes` are all but the variant and the length; a cell of a
    task has none, its rows tell.
    """

    metric: str
    axes: Axes
    length: int
    best: Row
    rival: Comparison
    level: tuple[Row, ...]

    @property
    def sure(self) -> bool:
        """Whether it is shown to be better than every other."""
        return not self.level

    @property
    def even(self) -> bool:
        """Whether the two that come first are shown to be the same."""
        return self.rival.verdict == "same"


class Standing(Struct, frozen=True, kw_only=True):
    """How the variants of a setting stand against the sweep's first, length by length: that one is the base."""

    axes: Axes
    pairs: tuple[Comparison, ...]


class Summary(Struct, frozen=True, kw_only=True):
    """What one run shows.

    `leads` are of latency, memory and accuracy; `close` of latency among those within CLOSE of exact attention; in
    `against` every variant stands against the sweep's first; `crossings` have both of their sides shown, `crossed`
    are all that there may be; `errors` are
    those at the longest length of each setting; `rounds` is the most rounds that a latency has.
    """

    run: str
    baseline: Row | None
    leads: tuple[Lead, ...]
    close: tuple[Lead, ...]
    against: tuple[Standing, ...]
    crossings: tuple[Crossover, ...]
    crossed: tuple[Crossover, ...]
    errors: tuple[Row, ...]
    missing: tuple[Row, ...]
    noisy: int
    timed: int
    rounds: int
    floor: float | None


class _Cell(Struct, frozen=True):
    """What may be compared: one metric at one length, the best first."""

    axes: Axes
    length: int
    rows: tuple[Row, ...]


def summarised(rows: Iterable[Row]) -> Summary:
    """Find what the rows of one run show.

    The best of a cell is tested against all others there, and what it is hardest to tell from once more in a family of
    such pairs alone (Benjamini-Hochberg, as `compare`): a lead is sure only if it passes both.
    """
    shown = [row for row in rows if not is_harness(row)]
    floors = [floor] if (floor := aa_floor(shown)) else []
    timed = [row for row in shown if row.metric == "latency" and row.value]
    settings = fields(timed)
    cells = [cell for field in settings for cell in _cells(field)]
    against = _against(settings, floors)
    leads = _leads(cells, floors)
    better = _better([*(pair for each in against for pair in each.pairs), *(lead.rival for lead in leads)])
    counted = [cell for field in fields(row for row in shown if row.metric == "memory") for cell in _cells(field)]
    crossed = tuple(crossovers(timed))
    return Summary(
        run=shown[0].run if shown else "",
        baseline=timed[0] if timed else None,
        leads=(*leads, *_leads(counted, floors), *_leads(_scored(shown), floors)),
        close=_leads(_near(cells, shown), floors),
        against=against,
        crossings=tuple(each for each in crossed if _is_shown(each, better)),
        crossed=crossed,
        errors=_errors(shown),
        missing=tuple(row for row in shown if row.primary and row.value is None and row.detail != PENDING),
        noisy=sum(row.noise == "unusable" for row in timed),
        timed=len(timed),
        rounds=max((row.rounds for row in timed), default=0),
        floor=floors[0].share if floors else None,
    )


def is_better(pair: Comparison) -> bool:
    """Tell whether the new side is shown to be better than the base."""
    wanted = "faster" if pair.one.unit == "s" else "higher" if pair.one.higher_is_better else "lower"
    return pair.verdict == wanted


def _cells(field: Field) -> Iterator[_Cell]:
    lengths = sorted({length for course in field.courses for length in course.rows})
    for length in lengths:
        found = [course.rows[length] for course in field.courses if length in course.rows]
        yield _Cell(field.axes, length, _best_first(found))


def _best_first(rows: Sequence[Row]) -> tuple[Row, ...]:
    sign = -1 if rows[0].higher_is_better else 1
    return tuple(sorted(rows, key=lambda row: sign * (row.value or 0)))


def _leads(cells: Sequence[_Cell], floors: Sequence[Floor]) -> tuple[Lead, ...]:
    contested = [cell for cell in cells if len(cell.rows) > 1]
    everyone = [[_duel(cell, row) for row in cell.rows[1:]] for cell in contested]
    verdicts = iter(judged([pair for pairs in everyone for pair in pairs], floors))
    found = [[next(verdicts) for _ in pairs] for pairs in everyone]
    hardest = [_hardest(each) for each in found]
    closest = judged([pairs[place] for pairs, place in zip(everyone, hardest, strict=True)], floors)
    return tuple(map(_lead, contested, found, hardest, closest))


def _hardest(found: Sequence[Comparison]) -> int:
    return min(range(len(found)), key=lambda place: _ease(found[place]))


def _lead(cell: _Cell, found: Sequence[Comparison], hardest: int, rival: Comparison) -> Lead:
    verdicts = [*found[:hardest], rival, *found[hardest + 1 :]]
    level = tuple(row for row, pair in zip(cell.rows[1:], verdicts, strict=True) if not is_better(pair))
    best = cell.rows[0]
    return Lead(metric=best.metric, axes=cell.axes, length=cell.length, best=best, rival=rival, level=level)


def _duel(cell: _Cell, other: Row) -> Pair:
    return Pair(metric=other.metric, base=other, new=cell.rows[0])


def _ease(pair: Comparison) -> tuple[bool, float, float]:
    """Sort pairs by how easily the new side is told from the base."""
    apart = abs(math.log(pair.ratio)) if pair.ratio and pair.ratio > 0 else math.inf
    return is_better(pair), -(1.0 if pair.p is None else pair.p), apart


def _against(settings: Sequence[Field], floors: Sequence[Floor]) -> tuple[Standing, ...]:
    """Compare every variant with the first of its setting, at each length that both have."""
    pairs = [
        [
            Pair(metric=row.metric, base=base, new=row)
            for course in field.courses[1:]
            for length, row in course.rows.items()
            if (base := field.courses[0].rows.get(length))
        ]
        for field in settings
    ]
    verdicts = iter(judged([pair for each in pairs for pair in each], floors))
    return tuple(
        Standing(axes=field.axes, pairs=tuple(next(verdicts) for _ in each))
        for field, each in zip(settings, pairs, strict=True)
    )


def _near(cells: Iterable[_Cell], rows: Iterable[Row]) -> list[_Cell]:
    """Keep of each cell those that are known to be near exact attention there; nothing where all of them are."""
    errors = {_place(row): row.value for row in rows if row.metric == _ERROR and row.value is not None}
    found = []
    for cell in cells:
        kept = tuple(row for row in cell.rows if errors.get(_place(row), math.inf) <= CLOSE)
        if kept and kept[0] is not cell.rows[0]:
            found.append(_Cell(cell.axes, cell.length, kept))
    return found


def _place(row: Row) -> Key:
    return *row.identity, *row.case.axes(without=("shape_name",)).values()


def _setting(row: Row | Comparison) -> Key:
    """Return the axes that figures of one setting share: all but the lengths and the batch that may follow them."""
    return tuple(row.case.axes(without=(*ALONG, "shape_name")).values())


def _scored(rows: Iterable[Row]) -> list[_Cell]:
    """Sort the scores of trained models into cells: one for each task, length and model."""
    alike: dict[Key, list[Row]] = {}
    for row in rows:
        if row.probe.kind == "accuracy" and row.primary and row.value is not None:
            alike.setdefault((row.task, *_setting(row), row.case.shape.seq_q), []).append(row)
    return [_Cell({}, each[0].case.shape.seq_q, _best_first(each)) for each in alike.values()]


def _errors(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Give the errors against exact attention at the longest length that a setting has, smallest first."""
    settings: dict[Key, list[Row]] = {}
    for row in rows:
        if row.metric == _ERROR and row.value is not None:
            settings.setdefault(_setting(row), []).append(row)
    return tuple(row for each in settings.values() for row in _best_first(_longest(each)))


def _longest(rows: Sequence[Row]) -> list[Row]:
    """Keep one row of each variant, at the longest length that there is."""
    longest = max(map(_lengths, rows))
    return list({row.identity: row for row in rows if _lengths(row) == longest}.values())


def _lengths(row: Row) -> tuple[int, int]:
    return row.case.shape.seq_q, row.case.shape.seq_k


def _better(pairs: Iterable[Comparison]) -> Better:
    """Collect where the first of two variants is shown to be faster than the second: lengths, each with its batch."""
    found: Better = {}
    for pair in pairs:
        if pair.verdict not in ("faster", "slower"):
            continue
        sides = [pair.other.identity, pair.one.identity]
        faster, slower = sides if pair.verdict == "faster" else sides[::-1]
        found.setdefault((_setting(pair), faster, slower), []).append((pair.case.length, pair.case.shape.batch))
    return found


def _is_shown(crossing: Crossover, better: Better) -> bool:
    """Tell whether both sides of a crossing are shown: of many pairs some cross by chance."""
    setting, batch = _setting(crossing.winner), crossing.axes.get("batch")
    winner, loser = crossing.winner.identity, crossing.loser.identity
    before, after = (
        [length for length, of in better.get((setting, *pair), ()) if batch in (None, of)]
        for pair in ((loser, winner), (winner, loser))
    )
    start, end = crossing.between
    return crossing.sure and min(before, default=end) <= start and max(after, default=start) >= end
