"""The search for a variant's learning rate: a grid of trials, one more where the best lies on an edge, then seeds.

Pure, from the jobs planned and the records so far, so that an interrupted search resumes anywhere.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from attnbench.contracts.case import digest
from attnbench.contracts.record import Job, Measurement, Record

MOST_FURTHER = 3  # trials beyond the grid
_STEPS_A_DECADE = 2


def grid(rate: float, count: int) -> tuple[float, ...]:
    """Return `count` learning rates around a rate, half a decade apart, ascending; an even count has one more below."""
    return tuple(_at(rate, step) for step in range(-(count // 2), (count + 1) // 2))


def first_jobs(training: Job) -> Iterator[Job]:
    """Return the first jobs of a training: its seeds where it has a single rate, else the trials of the grid."""
    count = _number(training, "rates")
    return _seeds(training) if count == 1 else (_trial(training, rate) for rate in grid(_base(training), count))


def further_jobs(jobs: Sequence[Job], records: Iterable[Record]) -> tuple[Job, ...]:
    """Return the jobs that follow from finished trials: a trial beyond an edge, or the seeds at the best rate."""
    over = {record.job.key: record for record in records if record.outcome.status != "interrupted"}
    further: list[Job] = []
    for search in _searches(jobs):
        if not search.seeds and all(trial.key in over for trial in search.trials):
            further += _next(search, [over[trial.key] for trial in search.trials])
    return tuple(further)


def without_doubtful(jobs: Sequence[Job], pending: Collection[Job]) -> tuple[Job, ...]:
    """Return jobs without the seeds of searches that have a pending trial: another rate may turn out to be the best."""
    keys = {job.key for job in pending}
    searches = (search for search in _searches(jobs) if any(trial.key in keys for trial in search.trials))
    doubtful = {job.key for search in searches for job in search.seeds}
    return tuple(job for job in jobs if job.key not in doubtful)


class _Search(Struct):
    """The trials of one variant on one task, and its trainings at the best rate, one a seed, once they are planned."""

    trials: list[Job] = []
    seeds: list[Job] = []


def _searches(jobs: Iterable[Job]) -> list[_Search]:
    searches: dict[str, _Search] = {}
    for job in jobs:
        if job.probe.kind == "accuracy" and not job.probe.base:
            search = searches.setdefault(digest(job.case, _searched_for(job).probe, job.origin), _Search())
            (search.trials if job.probe.trial else search.seeds).append(job)
    return [search for search in searches.values() if search.trials]


def _next(search: _Search, records: Sequence[Record]) -> Iterator[Job]:
    """Return one more trial, or the seeds; where no trial was ok, seeds at the task's own rate will show why."""
    training = _searched_for(search.trials[0])
    good = {_rate_of(record.job): record for record in records if record.outcome.status == "ok"}
    if not good:
        return _seeds(training)
    best = max(sorted(good), key=lambda rate: _merit(good[rate]))
    outward = 1 if best == max(good) else -1 if best == min(good) else 0
    whole, room = len(good) == len(records), len(records) < _number(training, "rates") + MOST_FURTHER
    if outward and whole and room:
        step = round(math.log10(best / _base(training)) * _STEPS_A_DECADE)
        return iter([_trial(training, _at(_base(training), step + outward))])
    probe = replace(training.probe, rate=best, searched=tuple(sorted(good)))
    return _seeds(replace(training, probe=probe))


def _merit(record: Record) -> tuple[float, ...]:
    """Return a sort key, higher for a better trial; one that diverged is worse than any that did not."""
    if record.outcome.facts.get("diverged"):
        return -math.inf, -_rate_of(record.job)
    accuracy, loss = (_value(record.outcome.measurements, name) for name in ("search_accuracy", "search_loss"))
    return (-loss, accuracy) if record.outcome.facts.get("by_loss") else (accuracy, -loss)


def _value(measurements: Iterable[Measurement], metric: str) -> float:
    (values,) = (measurement.values for measurement in measurements if measurement.metric == metric)
    return math.nan if values[0] is None else float(values[0])


def _trial(training: Job, rate: float) -> Job:
    probe = replace(training.probe, trial=True, rate=rate)
    return replace(training, probe=probe, protocol=replace(training.protocol, rounds=1), round=1)


def _seeds(training: Job) -> Iterator[Job]:
    return (replace(training, round=seed) for seed in range(1, training.protocol.rounds + 1))


def _searched_for(job: Job) -> Job:
    """Return the training that a trial or a seed belongs to, as it was asked for."""
    probe = replace(job.probe, trial=False, rate=None, searched=())
    return replace(job, probe=probe, protocol=replace(job.protocol, rounds=_number(job, "seeds")), round=1, attempt=1)


def _number(training: Job, option: str) -> int:
    """Return an option of the training; plans older than the search lack it."""
    return int(training.probe.task_options.get(option) or 1)


def _base(training: Job) -> float:
    return float(training.probe.task_options["learning_rate"] or 0)


def _rate_of(trial: Job) -> float:
    assert trial.probe.rate is not None
    return trial.probe.rate


def _at(rate: float, step: int) -> float:
    """Return the rate that lies some steps away, rounded to three digits."""
    return rate if step == 0 else float(f"{rate * 10 ** (step / _STEPS_A_DECADE):.3g}")
