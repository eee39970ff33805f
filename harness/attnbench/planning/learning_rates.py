"""The search for a variant's learning rate: trials over a grid, one further where the best lies on an edge, then seeds.

Pure, from the jobs that are planned and the records of those that are over, so that it goes on wherever it was cut.
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
    """Give `count` learning rates around a rate, half a decade apart, ascending; an even number has one more below."""
    return tuple(_at(rate, place) for place in range(-(count // 2), (count + 1) // 2))


def first_jobs(training: Job) -> Iterator[Job]:
    """Plan a training whose seeds are to come: at its own rate where only one is asked for, else the grid's trials."""
    count = _number(training, "rates")
    return _seeds(training) if count == 1 else (_trial(training, rate) for rate in grid(_base(training), count))


def further_jobs(jobs: Sequence[Job], records: Iterable[Record]) -> tuple[Job, ...]:
    """Plan what follows from the trials that are over: one beyond an edge, or the seeds at the best rate."""
    over = {record.job.key: record for record in records if record.outcome.status != "interrupted"}
    further: list[Job] = []
    for search in _searches(jobs):
        if not search.seeds and all(trial.key in over for trial in search.trials):
            further += _next(search, [over[trial.key] for trial in search.trials])
    return tuple(further)


def without_doubtful(jobs: Sequence[Job], pending: Collection[Job]) -> tuple[Job, ...]:
    """Leave out the seeds of a search that has a trial to be done, since another rate may turn out to be the best."""
    keys = {job.key for job in pending}
    searches = (search for search in _searches(jobs) if any(trial.key in keys for trial in search.trials))
    doubtful = {job.key for search in searches for job in search.seeds}
    return tuple(job for job in jobs if job.key not in doubtful)


class _Search(Struct):
    """The trials of one variant on one task, and its trainings from fresh seeds where they are planned."""

    trials: list[Job] = []
    seeds: list[Job] = []


def _searches(jobs: Iterable[Job]) -> list[_Search]:
    found: dict[str, _Search] = {}
    for job in jobs:
        if job.probe.kind == "accuracy":
            search = found.setdefault(digest(job.case, _searched_for(job).probe, job.origin), _Search())
            (search.trials if job.probe.trial else search.seeds).append(job)
    return [search for search in found.values() if search.trials]


def _next(search: _Search, records: Sequence[Record]) -> Iterator[Job]:
    """Choose between one trial more and the seeds; where no trial was ok, those at the task's own rate will say why."""
    training = _searched_for(search.trials[0])
    good = {_rate_of(record.job): record for record in records if record.outcome.status == "ok"}
    if not good:
        return _seeds(training)
    best = max(sorted(good), key=lambda rate: _merit(good[rate]))
    step = 1 if best == max(good) else -1 if best == min(good) else 0
    whole, room = len(good) == len(records), len(records) < _number(training, "rates") + MOST_FURTHER
    if step and whole and room:
        place = round(math.log10(best / _base(training)) * _STEPS_A_DECADE)
        return iter([_trial(training, _at(_base(training), place + step))])
    probe = replace(training.probe, rate=best, searched=tuple(sorted(good)))
    return _seeds(replace(training, probe=probe))


def _merit(record: Record) -> tuple[float, ...]:
    """Give what is higher for the better of two trials; one that diverged is worse than any that did not."""
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
    """Give the training that a trial or a seed is planned for, as it was asked for."""
    probe = replace(job.probe, trial=False, rate=None, searched=())
    return replace(job, probe=probe, protocol=replace(job.protocol, rounds=_number(job, "seeds")), round=1, attempt=1)


def _number(training: Job, option: str) -> int:
    """Read an option of the training; those planned before there was a search have none of it."""
    return int(training.probe.task_options.get(option) or 1)


def _base(training: Job) -> float:
    return float(training.probe.task_options["learning_rate"] or 0)


def _rate_of(trial: Job) -> float:
    assert trial.probe.rate is not None
    return trial.probe.rate


def _at(rate: float, place: int) -> float:
    """Give the rate that lies some steps away, of three digits."""
    return rate if place == 0 else float(f"{rate * 10 ** (place / _STEPS_A_DECADE):.3g}")
