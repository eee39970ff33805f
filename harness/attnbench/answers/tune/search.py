"""The cheapest options that reach a quality: which to try next, and what was found; pure, from rows.

A setting is a place in the grid of the options' values, each axis from cheap to dear. Where quality does not fall along
an axis, a setting that is good enough speaks for all that are dearer, and one that is not for all that are cheaper.
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

Place = tuple[int, ...]
_MOST_TRIALS = 48  # of one variant
_MOST_TIMED = 4


class Setting(Struct, frozen=True, kw_only=True):
    """Options with the quality that they were seen to reach, and their latency where that was measured.

    `sure` is false where the interval of the quality leaves its bound open. `comparison` is with the reference.
    """

    options: dict[str, Option]
    value: float
    low: float | None
    high: float | None
    sure: bool = True
    latency: Row | None = None
    comparison: Comparison | None = None


class Tuned(Struct, frozen=True, kw_only=True):
    """What the search found of one variant.

    `best` is the fastest of the cheapest settings that reach the quality, `tied` the others whose latency's interval
    overlaps with its. Where none does, `nearest` is the best that was reached, or `why` says that nothing ran.
    """

    variant: str
    searched: tuple[str, ...]
    trials: int
    best: Setting | None = None
    tied: tuple[Setting, ...] = ()
    nearest: Setting | None = None
    why: str = ""


def first_settings(searched: Searched) -> list[dict[str, Option]]:
    """Give the dearest settings, who reach it if any does: one for each choice along axes that are not monotone."""
    return [_options(searched, place) for place in _tops(searched)]


def further_trials(rows: Sequence[Row], plan: Plan) -> list[Job]:
    """Give the jobs that a search calls for now: further settings, and once these are known the timings of the good."""
    search = plan.search
    if search is None or any(row.detail == PENDING for row in rows):
        return []
    if any(job.probe.kind == "latency" for job in plan.jobs):
        return []
    trials = [job for searched in search.variants for job in _trials(searched, rows, plan)]
    return trials or _timings(search, rows)


def tuned(rows: Sequence[Row], search: Search) -> list[Tuned]:
    """Say what a search found, as far as rows tell."""
    return [_tuned(searched, rows, search) for searched in search.variants]


def next_place(searched: Searched, known: Mapping[Place, bool | None]) -> Place | None:
    """Choose the setting that decides most whichever way it turns out; None where all are decided.

    `known` says of what was tried whether it is good enough, null where it failed, which speaks for itself alone.
    """
    if len(known) >= _MOST_TRIALS:
        return None
    open_places = [place for place in _grid(searched) if _verdict(searched, place, known) is None]
    wanted = [place for place in open_places if place not in known]

    def decides(place: Place) -> tuple[int, int]:
        above = sum(_below(searched, place, other) for other in open_places)
        below = sum(_below(searched, other, place) for other in open_places)
        return min(above, below), max(above, below)

    return max(wanted, key=decides, default=None)


def _grid(searched: Searched) -> Iterable[Place]:
    return product(*(range(len(axis.values)) for axis in searched.axes))


def _tops(searched: Searched) -> Iterable[Place]:
    lasts = (len(axis.values) - 1 for axis in searched.axes)
    return product(
        *((last,) if axis.monotone else range(last + 1) for axis, last in zip(searched.axes, lasts, strict=True))
    )


def _below(searched: Searched, one: Place, other: Place) -> bool:
    """Tell whether one setting is nowhere dearer than another, and the same where quality may go either way."""
    return all(a <= b if axis.monotone else a == b for axis, a, b in zip(searched.axes, one, other, strict=True))


def _verdict(searched: Searched, place: Place, known: Mapping[Place, bool | None]) -> bool | None:
    """Say whether a setting is good enough, from itself or from others; null where that is open."""
    if place in known:
        return bool(known[place])
    good = any(is_good and _below(searched, other, place) for other, is_good in known.items())
    bad = any(is_good is False and _below(searched, place, other) for other, is_good in known.items())
    return None if good == bad else good


def _options(searched: Searched, place: Place) -> dict[str, Option]:
    chosen = {axis.option: axis.values[index] for axis, index in zip(searched.axes, place, strict=True)}
    return {**searched.options, **chosen}


def _rows_by_place(searched: Searched, rows: Iterable[Row], metric: str) -> dict[Place, Row]:
    """Find the rows of a variant's settings; a failed one has a row as well."""
    places = {canonical(_options(searched, place)): place for place in _grid(searched)}
    found = {}
    for row in rows:
        place = places.get(canonical(row.case.options)) if row.case.variant == searched.variant else None
        if place is not None and row.metric == metric and not row.metric.endswith("_twin"):
            found[place] = row
    return found


def _known(searched: Searched, rows: Iterable[Row], search: Search) -> dict[Place, bool | None]:
    found = _rows_by_place(searched, rows, search.metric)
    return {place: None if row.value is None else _is_good(row.value, search) for place, row in found.items()}


def _is_good(value: float, search: Search) -> bool:
    return value >= search.bound if search.at_least else value <= search.bound


def _trials(searched: Searched, rows: Sequence[Row], plan: Plan) -> Iterator[Job]:
    assert plan.search is not None
    place = next_place(searched, _known(searched, rows, plan.search))
    if place is None:
        return
    options, first = _options(searched, place), canonical(first_settings(searched)[0])
    templates = [
        job for job in plan.jobs if job.case.variant == searched.variant and canonical(job.case.options) == first
    ]
    rates = [job for job in templates if job.probe.trial]  # where the rate is searched, its seeds are what follows
    yield from (replace(job, case=replace(job.case, options=options)) for job in rates or templates)


def _cheapest(searched: Searched, rows: Iterable[Row], search: Search) -> list[Place]:
    """Give the settings that are good enough while none that is nowhere dearer is: the candidates for the fastest."""
    good = [place for place, is_good in _known(searched, rows, search).items() if is_good]
    least = [one for one in good if not any(other != one and _below(searched, other, one) for other in good)]
    return sorted(least, key=sum)[:_MOST_TIMED]


def _timings(search: Search, rows: Sequence[Row]) -> list[Job]:
    """Time the candidates of all variants in the same rounds, and beside them the floor and the reference."""
    chosen = {
        (each.variant, canonical(first_settings(each)[0])): [
            _options(each, place) for place in _cheapest(each, rows, search)
        ]
        for each in search.variants
    }
    jobs = []
    for job in search.timed if any(chosen.values()) else ():
        settings = chosen.get((job.case.variant, canonical(job.case.options)), [job.case.options])
        jobs += [replace(job, case=replace(job.case, options=options)) for options in settings]
    return jobs


def _tuned(searched: Searched, rows: Sequence[Row], search: Search) -> Tuned:
    by_place = _rows_by_place(searched, rows, search.metric)
    axes = tuple(axis.option for axis in searched.axes)
    draft = Tuned(variant=searched.variant, searched=axes, trials=len(by_place))
    cheapest = _cheapest(searched, rows, search)
    settings = [_setting(searched, by_place[place], rows, search) for place in cheapest]
    timed = sorted(
        (each for each in settings if each.latency and each.latency.value is not None),
        key=lambda each: (each.latency.value or 0) if each.latency else 0,
    )
    if settings:
        best, *others = timed or settings
        tied = tuple(each for each in others if best.latency and each.latency and overlap(best.latency, each.latency))
        return replace(draft, best=best, tied=tied)
    measured = [row for row in by_place.values() if row.value is not None]
    if not measured:
        return replace(draft, why=next((f"{row.status}: {row.detail}" for row in by_place.values()), "nothing ran"))
    nearest = (max if search.at_least else min)(measured, key=lambda row: row.value or 0)
    return replace(draft, nearest=_setting(searched, nearest, rows, search))


def _setting(searched: Searched, row: Row, rows: Sequence[Row], search: Search) -> Setting:
    found = (each for each in rows if each.metric == "latency" and each.case.variant == row.case.variant)
    latency = next((each for each in found if each.case.identity == row.case.identity), None)
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
