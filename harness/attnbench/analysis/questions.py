"""The questions of a run: jobs that differ in nothing but their round, each with the record of every round."""

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter

import msgspec
from msgspec import Struct

from attnbench.contracts.case import Option
from attnbench.contracts.record import Entry, Job, Measurement, Outcome, Record, Status, Told

PENDING = "not measured yet"
ENOUGH = "enough"  # the fact of a skipped round beyond those that the profile promises

_BY_ROUND = attrgetter("job.round", "job.attempt")

ToldByRound = Mapping[int, Record | Told]


class Question(Struct, eq=False):
    """All that is known of one question of one run: what was recorded of each of its rounds."""

    run: str
    job: Job
    planned: list[int]  # the rounds that the run's plan asks for
    entries: list[Entry]  # in the order written

    def told(self) -> ToldByRound:
        """Read what counts of each round, in their order: the record of its highest attempt, the last one of those."""
        rounds = [entry.job.round for entry in self.entries]
        in_order = rounds == sorted(set(rounds))  # as a rule
        found = {}
        for entry in self.entries if in_order else sorted(self.entries, key=_BY_ROUND):
            record = entry if isinstance(entry, Record) else entry.told()
            if record is not None:
                found[entry.job.round] = record
        return found


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


def verdict(records: ToldByRound, good: ToldByRound, *, measured: bool) -> tuple[Status, str]:
    """Choose the status that stands for all rounds, and say why; `good` are the records that are ok.

    `measured` says whether those hold any figure.

    A round is skipped because an earlier one failed or was measured once, so it is that earlier one that counts.
    """
    if not records:
        return "interrupted", PENDING
    if not good:
        outcomes = [record.outcome for record in records.values()]
        *_, last = [outcome for outcome in outcomes if outcome.status != "skipped"] or outcomes
        return last.status, last.detail
    if not measured:
        return "ok", "it measured nothing"
    if len(good) == len(records):
        return "ok", ""
    once = any("once" in measurement.flags for record in good.values() for measurement in record.outcome.measurements)
    expected = ("ok", "skipped") if once else ("ok",)
    lost = {number: record.outcome for number, record in records.items() if record.outcome.status not in expected}
    return "ok", _reasons({number: outcome for number, outcome in lost.items() if ENOUGH not in outcome.facts})


def by_metric(good: ToldByRound) -> dict[str, dict[int, Measurement]]:
    """Give each metric's measurement of each round, courses of values over a training left out."""
    measured: dict[str, dict[int, Measurement]] = {}
    for number, record in good.items():
        for measurement in record.outcome.measurements:
            if measurement.values and "curve" not in measurement.flags:
                if measurement.metric in measured:
                    measured[measurement.metric][number] = measurement
                else:
                    measured[measurement.metric] = {number: measurement}
    return {metric: by_round for metric, by_round in measured.items() if not metric.endswith("_curve")}


def facts_of(records: Iterable[Record | Told]) -> dict[str, Option]:
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


def _reasons(lost: Mapping[int, Outcome]) -> str:
    """Say of each round why it gave no figure, rounds with the same reason together."""
    reasons: dict[str, list[int]] = {}
    for number, outcome in lost.items():
        reasons.setdefault(": ".join(filter(None, (outcome.status, outcome.detail))), []).append(number)
    return "; ".join(
        f"round{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))} {reason}"
        for reason, numbers in reasons.items()
    )
