"""A run's progress, from its planned jobs and its records."""

from collections import Counter
from collections.abc import Collection, Iterable

from msgspec.structs import replace

from attnbench.contracts.record import Job, Record, Status


def standing(records: Iterable[Record]) -> dict[str, Record]:
    """Return each job's current record by the job's key: of its highest attempt, the one written last."""
    held: dict[str, Record] = {}
    for record in records:
        key = record.job.key
        if key not in held or record.job.attempt >= held[key].job.attempt:
            held[key] = record
    return held


def pending(jobs: Iterable[Job], records: Iterable[Record], *, retry: Collection[Status] = ()) -> list[Job]:
    """Return the jobs without a terminal record, or with a status in `retry`, each as its next attempt."""
    held, again = standing(records), {"interrupted", *retry}
    left = []
    for job in jobs:
        record = held.get(job.key)
        if record is None:
            left.append(job)
        elif record.outcome.status in again:
            left.append(replace(job, attempt=record.job.attempt + 1))
    return left


def tally(jobs: Iterable[Job], records: Iterable[Record]) -> dict[Status, int]:
    """Return the number of finished jobs by status."""
    held = standing(records)
    done = (held[key].outcome.status for key in {job.key for job in jobs} if key in held)
    counts = Counter(status for status in done if status != "interrupted")
    return dict(sorted(counts.items()))
