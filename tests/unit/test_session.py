"""The loop over jobs, with an executor that measures nothing and fails when told to."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from attnbench.answers.further import further
from attnbench.contracts.record import Job, Measurement, Outcome, Rates, Record
from attnbench.execute.executor import Event, Figures, Finished, NoAnswer, Started, no_figures
from attnbench.session import Notice, Notify, Session, quietly
from attnbench.store import Fit, Store
from helpers.planted import ENVIRONMENT, job, ok, plan

Answer = Callable[[Job], Outcome]


class Scripted:
    """An executor that takes each job's outcome from a function."""

    def __init__(self, answer: Answer) -> None:
        self.answer, self.done, self.closed = answer, list[Job](), False

    def run(self, jobs: Iterable[Job], *, folder: Path | None = None, figures: Figures = no_figures) -> Iterator[Event]:
        for one in jobs:
            yield Started(job=one)
            outcome = self.answer(one)
            self.done.append(one)
            yield Finished(job=one, outcome=outcome, started_s=1.0, seconds=0.5)

    def close(self) -> None:
        self.closed = True


def session(store: Store, executor: Scripted, notify: Notify = quietly) -> Session:
    """Return the session of a store, as the planted machine would have it."""
    return Session(store, executor, notify, ENVIRONMENT)


def perform_all(tmp_path: Path, jobs: list[Job], answer: Answer) -> tuple[Scripted, list[Record]]:
    executor = Scripted(answer)
    with Store.create(tmp_path, plan(jobs)) as store:
        session(store, executor).perform(jobs)
        return executor, store.records()


def test_every_planned_job_has_one_record(tmp_path: Path) -> None:
    jobs = [job(variant, number=number) for number in (1, 2, 3) for variant in ("a", "b")]
    _, records = perform_all(tmp_path, jobs, lambda _job: ok())
    assert sorted(record.job.key for record in records) == sorted(one.key for one in jobs)
    assert [record.job.round for record in records] == [1, 1, 2, 2, 3, 3]


def test_a_record_is_in_the_journal_before_it_is_notified(tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    with Store.create(tmp_path, plan([job("a"), job("b")])) as store:

        def listen(notice: Notice) -> None:
            if isinstance(notice, Record):
                heard.append((len(heard) + 1, len(store.records())))

        session(store, Scripted(lambda _job: ok()), listen).perform([job("a"), job("b")])
    assert heard == [(1, 1), (2, 2)]


@pytest.mark.parametrize("status", ["unsupported", "oom_host", "oom_device", "timeout", "crash", "error"])
def test_a_case_that_failed_in_one_round_is_not_tried_in_later_ones(tmp_path: Path, status: str) -> None:
    jobs = [job(variant, number=number) for number in (1, 2, 3) for variant in ("good", "bad")]

    def answer(one: Job) -> Outcome:
        return ok() if one.case.variant == "good" else Outcome(status=status, detail="because")

    executor, records = perform_all(tmp_path, jobs, answer)
    assert [one.case.variant for one in executor.done].count("bad") == 1
    assert [one.case.variant for one in executor.done].count("good") == 3
    skipped = [record.outcome for record in records if record.outcome.status == "skipped"]
    assert len(skipped) == 2
    assert all("because" in outcome.detail and "round 1" in outcome.detail for outcome in skipped)


def test_a_lost_device_does_not_close_the_case(tmp_path: Path) -> None:
    jobs = [job("a", number=number) for number in (1, 2)]
    executor, _ = perform_all(tmp_path, jobs, lambda _job: Outcome(status="device_lost", detail="gone"))
    assert len(executor.done) == 2


def test_a_case_whose_single_call_exceeds_the_cap_is_measured_in_one_round(tmp_path: Path) -> None:
    jobs = [job("slow", number=number) for number in (1, 2, 3)]
    executor, records = perform_all(tmp_path, jobs, lambda _job: ok(9_000_000_000, flags=("once",)))
    assert len(executor.done) == 1
    assert [record.outcome.status for record in records] == ["ok", "skipped", "skipped"]


def test_an_interrupt_ends_the_processes_and_leaves_a_resumable_run(tmp_path: Path) -> None:
    jobs = [job(variant, kind="memory") for variant in ("a", "b", "c")]

    def answer(one: Job) -> Outcome:
        if one.case.variant == "b":
            raise KeyboardInterrupt
        return ok()

    executor = Scripted(answer)
    with Store.create(tmp_path, plan(jobs)) as store:
        with pytest.raises(KeyboardInterrupt):
            session(store, executor).perform(jobs)
        assert executor.closed
        assert [record.outcome.status for record in store.records()] == ["ok", "interrupted"]
        assert [one.case.variant for one in store.pending()] == ["b", "c"]
        session(store, Scripted(lambda _job: ok())).perform(store.pending())
        assert [record.outcome.status for record in store.records()] == ["ok", "ok", "ok"]


def test_what_a_stored_run_has_settled_is_skipped_on_resume(tmp_path: Path) -> None:
    jobs = [job("bad", number=number) for number in (1, 2)]
    with Store.create(tmp_path, plan(jobs)) as store:
        late = Scripted(lambda _job: Outcome(status="timeout", detail="late"))
        session(store, late).perform(jobs[:1])
        executor = Scripted(lambda _job: ok())
        session(store, executor).perform(store.pending(), history=store.records())
        assert not executor.done
        assert [record.outcome.status for record in store.records()] == ["timeout", "skipped"]


def curved(one: Job) -> Outcome:
    """Return times at which the square overtakes the straight at 900."""
    length = one.case.shape.seq_q
    return ok(length * 1000 if one.case.variant == "straight" else length * length * 1000 // 900)


def sweep_to_refine(tmp_path: Path, steps: int) -> Store:
    jobs = [
        job(variant, seq=seq, number=number)
        for number in (1, 2, 3)
        for variant in ("straight", "square")
        for seq in (256, 1024)
    ]
    return Store.create(tmp_path, replace(plan(jobs), refine=steps))


def refined(store: Store, executor: Scripted) -> list[int]:
    """Refine a run and return the lengths added, in order."""
    before = len(store.plan.jobs)
    session(store, executor).refine()
    return list(dict.fromkeys(one.case.shape.seq_q for one in store.plan.jobs[before:]))


def test_refining_closes_in_on_a_crossing_in_every_round_for_both_variants(tmp_path: Path) -> None:
    noisy = iter(range(10_000))

    def answer(one: Job) -> Outcome:
        (value,) = curved(one).measurements[0].values
        return ok(round((value or 0) * (1 + 0.05 * (next(noisy) % 3))))

    with sweep_to_refine(tmp_path, 3) as store:
        session(store, Scripted(answer)).perform(store.plan.jobs)
        assert refined(store, Scripted(answer))[:2] == [512, 704]
        assert store.plan.refine == 0
        assert not store.pending()
        added = [one for one in store.plan.jobs if one.case.shape.seq_q == 512]
        assert {(one.case.variant, one.round) for one in added} == {
            (variant, number) for variant in ("straight", "square") for number in (1, 2, 3)
        }


def test_refining_stops_once_a_crossing_is_located_and_is_off_by_default(tmp_path: Path) -> None:
    for steps, added in ((3, [512]), (0, [])):
        with sweep_to_refine(tmp_path, steps) as store:
            session(store, Scripted(curved)).perform(store.plan.jobs)
            assert refined(store, Scripted(curved)) == added


def test_an_interrupted_refinement_resumes(tmp_path: Path) -> None:
    def interrupted(one: Job) -> Outcome:
        raise KeyboardInterrupt

    with sweep_to_refine(tmp_path, 1) as store:
        session(store, Scripted(curved)).perform(store.plan.jobs)
        with pytest.raises(KeyboardInterrupt):
            session(store, Scripted(interrupted)).refine()
    with Store.open(store.path, write=True) as again:
        left = again.pending()
        assert {one.case.shape.seq_q for one in left} == {512}
        assert len(left) == 6
        session(again, Scripted(curved)).perform(left)
        assert refined(again, Scripted(curved)) == []


def test_an_interrupted_search_resumes(tmp_path: Path) -> None:
    def until_4096(one: Job) -> Outcome:
        if one.case.shape.seq_q > 4096:
            return Outcome(status="oom_host", detail="full")
        return Outcome(status="ok", measurements=(Measurement(metric="memory", unit="bytes", values=(1,)),))

    def interrupted(one: Job) -> Outcome:
        raise KeyboardInterrupt

    jobs = [job("a", kind="memory", seq=seq) for seq in (512, 1024, 2048)]
    fit = Fit(lengths=(512, 1024, 2048), most=65536)
    with Store.create(tmp_path, replace(plan(jobs), fit=fit)) as store:
        session(store, Scripted(until_4096)).perform(jobs)
        with pytest.raises(KeyboardInterrupt):
            session(store, Scripted(interrupted)).pursue(further)
    with Store.open(store.path, write=True) as again:
        assert [one.case.shape.seq_q for one in again.pending()] == [8192]
        session(again, Scripted(until_4096)).perform(again.pending())
        executor = Scripted(until_4096)
        session(again, executor).pursue(further)
        assert not again.pending()
        tried = [one.case.shape.seq_q for one in executor.done]
        assert min(each for each in (*tried, 8192) if each > 4096) < 1.06 * max(each for each in tried if each <= 4096)


class Asked:
    """An executor that answers every question alike, or raises."""

    def __init__(self, answer: object) -> None:
        self.answer, self.questions = answer, list[object]()

    def ask(self, question: object, _kind: object) -> object:
        self.questions.append(question)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_the_device_s_rates_are_measured_once_a_run(tmp_path: Path) -> None:
    seen = Rates(device="cpu", threads=2, bytes_per_s=1e10)
    executor = Asked(seen)
    with Store.create(tmp_path, plan([job("a"), job("b", kind="memory")])) as store:
        session(store, executor).measure_rates()
        session(store, executor).measure_rates()
        assert (store.rates(), len(executor.questions)) == (seen, 1)
    with Store.open(store.path, write=True) as again:
        session(again, executor).measure_rates()
    assert len(executor.questions) == 1


def test_rates_that_cannot_be_measured_are_null_with_the_reason_and_end_nothing(tmp_path: Path) -> None:
    with Store.create(tmp_path, plan([job("a")])) as store:
        session(store, Asked(NoAnswer("ended by SIGKILL without an answer"))).measure_rates()
        assert store.rates() == Rates(
            device="cpu", threads=2, reason="the process that measured ended by SIGKILL without an answer"
        )


def test_a_run_that_times_nothing_needs_no_rates(tmp_path: Path) -> None:
    executor = Asked(None)
    with Store.create(tmp_path, plan([job("a", kind="memory")])) as store:
        session(store, executor).measure_rates()
    assert executor.questions == []
