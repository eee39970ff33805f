"""The questions of a run: jobs that differ in nothing but their round, each with the record of every round."""

from collections.abc import Iterable, Sequence
from functools import cache
from operator import attrgetter

import msgspec
from msgspec import Struct

from attnbench.case import Option
from attnbench.record import Entry, Job, Measurement, Record, Status, read

PENDING = "not measured yet"
ENOUGH = "enough"  # the fact of a skipped round beyond those that the profile promises

_BY_ROUND = attrgetter("job.round", "job.attempt")


class Question(Struct, eq=False):
    """All that is known of one question of one run: what was recorded of each of its rounds."""

    run: str
    job: Job
    planned: list[int]  # the rounds that the run's plan asks for
    entries: list[Entry]  # in the order written

    @property
    def records(self) -> list[Record]:
        """Read the record that counts of each round, in the order of rounds: of its highest attempt, the last one."""
        found: dict[int, Record] = {}
        for entry in sorted(self.entries, key=_BY_ROUND):
            record = read(entry)
            if record is not None:
                found[record.job.round] = record
        return list(found.values())


def questions(
    records: Iterable[Entry], planned: Sequence[Job], *, run: str, stray: bool = True, places: Sequence[int] = ()
) -> list[Question]:
    """Group jobs and records by what they ask: those of `planned` first, which are jobs of `run`.

    `places` say of each of these which ask the same, as a plan knows it; else that is found by what they share.
    Without `stray`, all records are the run's, also those merged into it, and what is not planned is left out.
    """
    known: dict[tuple[str, bytes], Question] = {}
    alike: dict[object, Question] = {}
    by_job: dict[int, Question] = {}  # a stored record holds the planned job itself
    for job, place in zip(planned, places or map(_parts, planned), strict=True):
        question = alike.get(place)
        if question is None:
            asked = run, _asked(job)
            question = alike[place] = known.setdefault(asked, Question(run, job, [], []))
        question.planned.append(job.round)
        by_job[id(job)] = question
    for entry in records:
        job, whose = entry.job, entry.run if stray else run
        found = by_job.get(id(job)) if whose == run else None
        if found is None:
            asked = whose, _asked(job)
            if not stray and (asked not in known or job.round not in known[asked].planned):
                continue
            found = known.setdefault(asked, Question(entry.run, job, [], []))
        found.entries.append(entry)
    return list(known.values())


def verdict(records: Sequence[Record], good: Sequence[Record], *, measured: bool) -> tuple[Status, str]:
    """Choose the status that stands for all rounds, and say why; `good` are the records that are ok.

    `measured` says whether those hold any figure.

    A round is skipped because an earlier one failed or was measured once, so it is that earlier one that counts.
    """
    if not records:
        return "interrupted", PENDING
    if not good:
        told = [record for record in records if record.outcome.status != "skipped"] or records
        return told[-1].outcome.status, told[-1].outcome.detail
    if not measured:
        return "ok", "it measured nothing"
    if len(good) == len(records):
        return "ok", ""
    once = any("once" in measurement.flags for record in good for measurement in record.outcome.measurements)
    expected = ("ok", "skipped") if once else ("ok",)
    lost = [record for record in records if record.outcome.status not in expected]
    return "ok", _reasons([record for record in lost if ENOUGH not in record.outcome.facts])


def by_metric(good: Iterable[Record]) -> dict[str, dict[int, Measurement]]:
    """Give each metric's measurement of each round, courses of values over a training left out."""
    measured: dict[str, dict[int, Measurement]] = {}
    for record in good:
        number = record.job.round
        for measurement in record.outcome.measurements:
            metric = measurement.metric
            if measurement.values and not _is_curve(metric, measurement.flags):
                measured.setdefault(metric, {})[number] = measurement
    return measured


def facts_of(records: Iterable[Record]) -> dict[str, Option]:
    """Give what the rounds found out besides, not to be altered; where they differ, the last one's."""
    each = [record.outcome.facts for record in records]
    names = list(map(list, each))
    if each and names.count(names[-1]) == len(each):  # as a rule
        return each[-1]
    facts: dict[str, Option] = {}
    for found in each:
        facts.update(found)
    return facts


def _parts(job: Job) -> tuple[int, ...]:
    """Tell apart what jobs hold, without looking into it; a question's jobs as a rule share it."""
    return id(job.case), id(job.probe), id(job.protocol), id(job.origin)


def _asked(job: Job) -> bytes:
    """Tell a job from those that ask something else, as `Job.question` does at the cost of a digest."""
    return msgspec.json.encode((job.case, job.probe, job.protocol, job.origin), order="deterministic")


def _reasons(lost: Iterable[Record]) -> str:
    """Say of each round why it gave no figure, rounds with the same reason together."""
    reasons: dict[str, list[int]] = {}
    for record in lost:
        reason = ": ".join(filter(None, (record.outcome.status, record.outcome.detail)))
        reasons.setdefault(reason, []).append(record.job.round)
    return "; ".join(
        f"round{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))} {reason}"
        for reason, numbers in reasons.items()
    )


@cache
def _is_curve(metric: str, flags: tuple[str, ...]) -> bool:
    """Tell a course of values over one training from values that repeat one another: it has no mean to report."""
    return "curve" in flags or metric.endswith("_curve")
