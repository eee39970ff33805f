"""The cheapest options that reach a quality: the settings to try next and the result, from rows.

A setting is a point in the grid of the options' values, each axis from cheap to dear. Where quality does not fall along
an axis, a setting that is good enough implies that all dearer ones are, and one that is not that no cheaper one is.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product

from msgspec import Struct
from msgspec.structs import replace

from attnbench.analysis.compare import Comparison, compare
from attnbench.analysis.rows import Row
from attnbench.analysis.scores import overlap
from attnbench.contracts.case import Option, canonical
from attnbench.contracts.record import PENDING, Job
from attnbench.contracts.specs import Spec
from attnbench.contracts.text import option_text
from attnbench.store import Plan, Search, Searched

GridPoint = tuple[int, ...]  # the index of the value on each axis
_MOST_TRIALS = 48  # of one variant
_MOST_TIMED = 4


class Setting(Struct, frozen=True, kw_only=True):
    """Options with the quality that they reached, and their latency where that was measured.

    `sure` is false where the interval of the quality reaches past its bound. `comparison` is with the reference.
    """

    options: dict[str, Option]
    value: float
    low: float | None
    high: float | None
    sure: bool = True
    latency: Row | None = None
    comparison: Comparison | None = None


class TunedVariant(Struct, frozen=True, kw_only=True):
    """The result of the search for one variant.

    `best` is the fastest of the cheapest settings that reach the quality, `tied` the others whose latency's interval
    overlaps with its. Where none does, `nearest` is the best quality that was reached, or `why` that nothing ran.
    """

    variant: str
    searched: tuple[str, ...]
    trials: int
    best: Setting | None = None
    tied: tuple[Setting, ...] = ()
    nearest: Setting | None = None
    why: str = ""


def first_settings(searched: Searched) -> list[dict[str, Option]]:
    """Return the dearest settings, one for each choice along axes that are not monotone.

    If any setting reaches the quality, one of these does.
    """
    dearest = ((len(axis.values) - 1,) if axis.monotone else range(len(axis.values)) for axis in searched.axes)
    return [_options(searched, point) for point in product(*dearest)]


def further_trials(rows: Sequence[Row], plan: Plan) -> list[Job]:
    """Return the jobs that a search calls for next: more trials, or after the last the timings of good settings."""
    search = plan.search
    if search is None or any(row.detail == PENDING for row in rows):
        return []
    if any(job.probe.kind == "latency" for job in plan.jobs):
        return []
    trials = [job for searched in search.variants for job in _trials(searched, rows, plan)]
    return trials or _timings(search, rows)


def tuned(rows: Sequence[Row], search: Search) -> list[TunedVariant]:
    """Return the result of a search, as far as rows tell."""
    return [_tuned(searched, rows, search) for searched in search.variants]


def next_point(searched: Searched, tried: Mapping[GridPoint, bool | None]) -> GridPoint | None:
    """Return the setting that decides most others whichever way it turns out; None where all are decided.

    `tried` maps settings to whether they are good enough, None where one failed, which decides no other.
    """
    if len(tried) >= _MOST_TRIALS:
        return None
    undecided = [point for point in _grid(searched) if _verdict(searched, point, tried) is None]

    def decides(point: GridPoint) -> tuple[int, int]:
        above = sum(_below(searched, point, other) for other in undecided)
        below = sum(_below(searched, other, point) for other in undecided)
        return min(above, below), max(above, below)

    return max(undecided, key=decides, default=None)


def _grid(searched: Searched) -> Iterable[GridPoint]:
    return product(*(range(len(axis.values)) for axis in searched.axes))


def _below(searched: Searched, one: GridPoint, other: GridPoint) -> bool:
    """Return whether a setting is nowhere dearer than another, and equal to it along axes that are not monotone."""
    return all(a <= b if axis.monotone else a == b for axis, a, b in zip(searched.axes, one, other, strict=True))


def _verdict(searched: Searched, point: GridPoint, tried: Mapping[GridPoint, bool | None]) -> bool | None:
    """Return whether a setting is good enough, by itself or by others; None where that is undecided."""
    if point in tried:
        return bool(tried[point])
    good = any(is_good and _below(searched, other, point) for other, is_good in tried.items())
    bad = any(is_good is False and _below(searched, point, other) for other, is_good in tried.items())
    return None if good == bad else good


def _options(searched: Searched, point: GridPoint) -> dict[str, Option]:
    chosen = {axis.option: axis.values[index] for axis, index in zip(searched.axes, point, strict=True)}
    return {**searched.options, **chosen}


def _by_point(searched: Searched, rows: Iterable[Row], metric: str) -> dict[GridPoint, Row]:
    """Return the row of each setting of a variant; a failed one has a row as well."""
    points = {canonical(_options(searched, point)): point for point in _grid(searched)}
    of_variant = (row for row in rows if row.case.variant == searched.variant and row.metric == metric)
    by_options = {canonical(row.case.options): row for row in of_variant}
    return {points[options]: row for options, row in by_options.items() if options in points}


def _tried(searched: Searched, rows: Iterable[Row], search: Search) -> dict[GridPoint, bool | None]:
    by_point = _by_point(searched, rows, search.metric)
    return {point: None if row.value is None else _is_good(row.value, search) for point, row in by_point.items()}


def _is_good(value: float, search: Search) -> bool:
    return value >= search.bound if search.at_least else value <= search.bound


def _trials(searched: Searched, rows: Sequence[Row], plan: Plan) -> Iterator[Job]:
    assert plan.search is not None
    point = next_point(searched, _tried(searched, rows, plan.search))
    if point is None:
        return
    options, first = _options(searched, point), canonical(first_settings(searched)[0])
    templates = [
        job for job in plan.jobs if job.case.variant == searched.variant and canonical(job.case.options) == first
    ]
    rates = [job for job in templates if job.probe.trial]  # where the rate is searched, its seeds are what follows
    yield from (replace(job, case=replace(job.case, options=options)) for job in rates or templates)


def _cheapest(searched: Searched, rows: Iterable[Row], search: Search) -> list[GridPoint]:
    """Return the good settings below which there is no good one: the candidates for the fastest."""
    good = [point for point, is_good in _tried(searched, rows, search).items() if is_good]
    least = [one for one in good if not any(other != one and _below(searched, other, one) for other in good)]
    return sorted(least, key=sum)[:_MOST_TIMED]


def _timings(search: Search, rows: Sequence[Row]) -> list[Job]:
    """Return the timings of all candidates in the same rounds, with those of the floor and the reference."""
    chosen = {
        (searched.variant, canonical(first_settings(searched)[0])): [
            _options(searched, point) for point in _cheapest(searched, rows, search)
        ]
        for searched in search.variants
    }
    jobs = []
    for job in search.timed if any(chosen.values()) else ():
        settings = chosen.get((job.case.variant, canonical(job.case.options)), [job.case.options])
        jobs += [replace(job, case=replace(job.case, options=options)) for options in settings]
    return jobs


def _tuned(searched: Searched, rows: Sequence[Row], search: Search) -> TunedVariant:
    by_point = _by_point(searched, rows, search.metric)
    axes = tuple(axis.option for axis in searched.axes)
    draft = TunedVariant(variant=searched.variant, searched=axes, trials=len(by_point))
    settings = [_setting(searched, by_point[point], rows, search) for point in _cheapest(searched, rows, search)]
    if settings:
        timed = [setting for setting in settings if _latency_s(setting) is not None]
        best, *others = sorted(timed, key=lambda setting: _latency_s(setting) or 0) or settings
        tied = (one for one in others if best.latency and one.latency and overlap(best.latency, one.latency))
        return replace(draft, best=best, tied=tuple(tied))
    measured = [row for row in by_point.values() if row.value is not None]
    if not measured:
        return replace(draft, why=next((f"{row.status}: {row.detail}" for row in by_point.values()), "nothing ran"))
    nearest = (max if search.at_least else min)(measured, key=lambda row: row.value or 0)
    return replace(draft, nearest=_setting(searched, nearest, rows, search))


def _latency_s(setting: Setting) -> float | None:
    return setting.latency.value if setting.latency else None


def _setting(searched: Searched, row: Row, rows: Sequence[Row], search: Search) -> Setting:
    timed = (other for other in rows if other.metric == "latency")
    latency = next((other for other in timed if other.case.identity == row.case.identity), None)
    end = row.low if search.at_least else row.high
    assert row.value is not None
    return Setting(
        options={axis.option: row.case.options[axis.option] for axis in searched.axes},
        value=row.value,
        low=row.low,
        high=row.high,
        sure=end is None or _is_good(end, search),
        latency=latency,
        comparison=_comparison(latency, rows, search) if latency is not None else None,
    )


def _comparison(latency: Row, rows: Sequence[Row], search: Search) -> Comparison | None:
    """Compare a setting's times with the reference's, round by round."""
    both = (_spec(search.reference, search.reference_options), _spec(latency.case.variant, latency.case.options))
    if both[0] == both[1] or not any(row.metric == "latency" and row.case.variant == search.reference for row in rows):
        return None
    pairs = compare(rows, rows, metrics=["latency"], variants=both).pairs
    return next(iter(pairs), None)


def _spec(variant: str, options: Mapping[str, Option]) -> Spec:
    return Spec(name=variant, options={name: option_text(value) for name, value in options.items()})
