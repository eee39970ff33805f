"""What jobs are expected to take, in proportion to what like jobs took; and on stored runs, how far that is off."""

from statistics import median

import pytest
from msgspec.structs import replace

from attnbench.contracts.record import Job, Outcome, Record
from attnbench.planning.duration import Durations, Running, suggested_s
from attnbench.store import Store
from helpers.documents import ROOT
from helpers.planted import job, ok
from helpers.subtests import as_subtests

STORED = sorted(ROOT.glob("results/*/*/plan.json"))


def done(of: Job, seconds: float, outcome: Outcome | None = None) -> Record:
    return Record(run="r", job=of, outcome=outcome or ok(), seconds=seconds)


def at(seq: int, *, number: int = 1, variant: str = "a") -> Job:
    one = job(variant, number=number)
    return replace(one, case=replace(one.case, shape=replace(one.case.shape, seq_q=seq, seq_k=seq)))


def left_s(records: list[Record], *waiting: Job, threads: int = 1) -> float:
    return Durations(records).left_s(waiting, (), threads=threads)


def test_longer_sequences_are_suggested_to_take_longer_up_to_the_cap() -> None:
    short, long, capped = (suggested_s(at(seq)) for seq in (64, 2048, 2**17))
    assert short < long < capped
    assert suggested_s(at(2**19)) > capped, "even one call takes longer than the cap"


def test_a_later_round_is_expected_to_take_what_an_earlier_one_took() -> None:
    assert left_s([done(at(512, number=1), 4.0)], at(512, number=2)) == 4.0


def test_another_length_is_expected_in_proportion_to_what_sizes_suggest() -> None:
    short, long = at(512), at(4096)
    expected = 2 * suggested_s(short)
    assert left_s([done(short, expected)], long) == pytest.approx(2 * suggested_s(long))


def test_a_variant_s_own_jobs_say_more_of_it_than_those_of_others() -> None:
    records = [done(at(512), suggested_s(at(512))), done(at(512, variant="b"), 3 * suggested_s(at(512)))]
    assert left_s(records, at(1024, variant="b")) == pytest.approx(3 * suggested_s(at(1024)))


def test_trainings_share_the_threads_and_timed_jobs_do_not() -> None:
    trainings = [replace(job("a", kind="accuracy"), round=number) for number in (1, 2, 3, 4)]
    records = [done(trainings[0], 10.0), done(job("a", number=1), 5.0)]
    assert left_s(records, *trainings[1:], job("a", number=2), threads=3) == 10.0 + 5.0
    assert left_s(records, trainings[1], threads=3) == 10.0, "one training has one thread"


@as_subtests("status", ["error", "unsupported"])
def test_further_rounds_of_what_failed_take_no_time(status: str) -> None:
    assert left_s([done(job("a", number=1), 3.0, Outcome(status=status))], job("a", number=2)) == 0  # type: ignore[arg-type]


def test_an_interrupted_job_teaches_nothing() -> None:
    one = job("a", number=1)
    interrupted = done(one, 100.0, Outcome(status="interrupted"))
    assert left_s([interrupted], job("a", number=2)) == suggested_s(one)


def test_a_job_that_takes_longer_than_expected_is_not_said_to_end_at_once() -> None:
    running = Running(job=job("a"), since_s=100.0)
    assert running.left_s(1.0) == 25.0
    assert Running(job=job("a"), since_s=2.0).left_s(10.0) == 8.0
    assert Running(job=job("a"), since_s=30.0, share=0.75).left_s(1000.0) == pytest.approx(10.0)


@pytest.mark.parametrize("plan", STORED, ids=lambda path: path.parent.name)
def test_from_a_tenth_of_a_stored_run_on_the_time_left_is_right_within_30_percent_by_the_median(plan) -> None:
    with Store.open(plan.parent, write=False) as store:
        records = sorted(store.records(), key=lambda record: record.started_s + record.seconds)
        threads = store.plan.environment.threads
    ends = [record.started_s + record.seconds - records[0].started_s for record in records]
    durations, errors = Durations(), []
    for number, record in enumerate(records[:-1], start=1):
        durations.add(record)
        left = ends[-1] - ends[number - 1]
        if ends[number - 1] > 0.1 * ends[-1]:
            waiting = [later.job for later in records[number:]]
            errors.append(abs(durations.left_s(waiting, (), threads=threads) / left - 1))
    assert median(errors) < 0.3
