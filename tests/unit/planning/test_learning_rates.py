"""The learning rate at which a variant is trained: trials, trials beyond an edge, and seeds, from planted records."""

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from attnbench.analysis.rows import rows
from attnbench.contracts.record import Job, Measurement, Outcome, Probe, Record
from attnbench.planning.learning_rates import MOST_FURTHER, first_jobs, further_jobs, grid, without_doubtful
from attnbench.store import Store
from helpers.planted import job, plan
from unit.test_session import Scripted, session

Answer = Callable[[float], Outcome]


def training(variant: str = "vanilla", *, rates: int = 3, seeds: int = 2) -> Job:
    options = {"learning_rate": 1e-2, "rates": rates, "seeds": seeds}
    planned = job(variant, kind="accuracy")
    probe = Probe(kind="accuracy", task="mqar:preset=small", task_options=options)
    return replace(planned, probe=probe, protocol=replace(planned.protocol, rounds=seeds))


def scored(accuracy: float, loss: float = 1.0, **facts: bool) -> Outcome:
    values = {"search_accuracy": accuracy, "search_loss": loss}
    told = (Measurement(metric=name, unit="1", values=(value,)) for name, value in values.items())
    return Outcome(status="ok", measurements=tuple(told), facts={"diverged": False, "by_loss": False, **facts})


def near(best: float) -> Answer:
    """Score the better, the nearer a rate is to the best one."""
    return lambda rate: scored(1 - abs(math.log10(rate / best)) / 10)


def record(of: Job, outcome: Outcome) -> Record:
    return Record(run="r1", job=of, outcome=outcome)


def followed(answer: Answer, *, rates: int = 3) -> tuple[list[float], list[Job]]:
    """Search to the end: the rates that were tried, in their order, and the seeds."""
    jobs, records = list(first_jobs(training(rates=rates))), list[Record]()
    while jobs and jobs[-1].probe.trial:
        records += [record(each, answer(each.probe.rate)) for each in jobs if each.probe.trial][len(records) :]
        jobs += further_jobs(jobs, records)
    return [each.job.probe.rate for each in records], [each for each in jobs if not each.probe.trial]


def test_the_grid_lies_around_the_rate_in_steps_of_half_a_decade() -> None:
    assert grid(1e-2, 3) == (3.16e-3, 1e-2, 3.16e-2)
    assert grid(4e-3, 4) == (4e-4, 1.26e-3, 4e-3, 1.26e-2)
    assert grid(4e-3, 1) == (4e-3,)


def test_without_a_search_every_seed_is_planned_at_the_task_s_own_rate() -> None:
    jobs = list(first_jobs(training(rates=1)))
    assert [each.round for each in jobs] == [1, 2]
    assert {each.question for each in jobs} == {training(rates=1).question}
    assert further_jobs(jobs, []) == ()


def test_a_search_begins_with_a_trial_for_each_rate_and_no_seed() -> None:
    jobs = list(first_jobs(training()))
    assert [(each.probe.trial, each.probe.rate) for each in jobs] == [(True, rate) for rate in grid(1e-2, 3)]
    assert {each.protocol.rounds for each in jobs} == {1}


def test_the_seeds_are_trained_at_the_best_rate_and_know_what_was_tried() -> None:
    tried, seeds = followed(near(1e-2))
    assert tried == [3.16e-3, 1e-2, 3.16e-2]
    assert [(each.round, each.probe.rate) for each in seeds] == [(1, 1e-2), (2, 1e-2)]
    assert {each.probe.searched for each in seeds} == {(3.16e-3, 1e-2, 3.16e-2)}
    assert {each.probe.task for each in seeds} == {"mqar:preset=small"}


@pytest.mark.parametrize(
    ("best", "further"), [(3e-3, [1e-3]), (1e-3, [1e-3, 3.16e-4]), (3e-2, [0.1]), (0.1, [0.1, 0.316])]
)
def test_where_the_best_lies_on_an_edge_rates_beyond_it_are_tried(best: float, further: list[float]) -> None:
    tried, seeds = followed(near(best))
    assert tried[3:] == further
    assert seeds[0].probe.rate == min(tried, key=lambda rate: abs(math.log10(rate / best)))
    assert seeds[0].probe.searched == tuple(sorted(tried))


def test_a_search_ends_also_where_the_best_is_always_on_the_edge() -> None:
    tried, seeds = followed(near(1e9))
    assert len(tried) == 3 + MOST_FURTHER
    assert seeds[0].probe.rate == max(tried)


def test_of_equal_accuracies_the_lower_loss_is_better_and_of_a_language_model_the_loss_alone() -> None:
    losses = {3.16e-3: 0.5, 1e-2: 0.2, 3.16e-2: 0.3}
    assert followed(lambda rate: scored(0.9, losses[rate]))[1][0].probe.rate == 1e-2
    accuracies = {3.16e-3: 0.5, 1e-2: 0.1, 3.16e-2: 0.7}
    by_loss = followed(lambda rate: scored(accuracies[rate], losses[rate], by_loss=True))
    assert by_loss[1][0].probe.rate == 1e-2


def test_a_trial_that_diverged_is_worse_than_any_that_did_not() -> None:
    diverges = followed(lambda rate: scored(0.9 - rate) if rate < 2e-2 else scored(0.99, diverged=True))
    assert diverges[1][0].probe.rate < 1e-2
    assert all(rate < 1e-2 for rate in diverges[0][3:])


def test_where_every_trial_diverged_lower_rates_are_tried() -> None:
    tried, _ = followed(lambda _rate: scored(math.nan, diverged=True))
    assert tried[3:] == [1e-3, 3.16e-4, 1e-4]


def test_where_no_trial_was_ok_the_seeds_are_planned_at_the_task_s_own_rate_and_say_why() -> None:
    tried, seeds = followed(lambda _rate: Outcome(status="unsupported", detail="it has no causal form"))
    assert len(tried) == 3
    assert [(each.round, each.probe.rate) for each in seeds] == [(1, None), (2, None)]


def test_a_failed_trial_is_ignored() -> None:
    best = near(3.16e-2)
    tried, seeds = followed(lambda rate: best(rate) if rate < 2e-2 else Outcome(status="timeout"))
    assert len(tried) == 3
    assert seeds[0].probe.rate == 1e-2


def test_nothing_follows_before_the_last_trial_is_over() -> None:
    jobs = list(first_jobs(training()))
    over = [record(each, near(1e-2)(each.probe.rate)) for each in jobs]
    assert further_jobs(jobs, over[:2]) == ()
    assert further_jobs(jobs, [*over[:2], record(jobs[2], Outcome(status="interrupted"))]) == ()
    assert len(further_jobs(jobs, over)) == 2


def test_variants_are_searched_apart() -> None:
    jobs = [each for variant in ("a", "b") for each in first_jobs(training(variant))]
    best = {"a": 1e-2, "b": 3.16e-2}
    records = [record(each, near(best[each.case.variant])(each.probe.rate)) for each in jobs]
    further = further_jobs(jobs, records)
    assert [(each.case.variant, each.probe.trial, each.probe.rate) for each in further] == [
        *(("a", False, 1e-2), ("a", False, 1e-2)),
        ("b", True, 0.1),
    ]


def test_seeds_are_in_doubt_while_a_trial_of_theirs_is_to_be_done_again() -> None:
    _, seeds = followed(near(1e-2))
    trials = list(first_jobs(training()))
    others = list(first_jobs(training("other", rates=1)))
    jobs = [*trials, *seeds, *others]
    assert without_doubtful(jobs, [trials[1]]) == (*trials, *others)
    assert without_doubtful(jobs, [*seeds, *others]) == tuple(jobs)


# In a session.


def answer(one: Job) -> Outcome:
    if one.probe.trial:
        return near(3.16e-2)(one.probe.rate)
    score = Measurement(metric="accuracy", unit="1", values=(0.9 + one.round / 100,), higher_is_better=True)
    return Outcome(status="ok", measurements=(score,), facts={"learning_rate": one.probe.rate})


def search(folder: Path, executor: Scripted) -> Iterator[Store]:
    """Search for two variants in a run of its own."""
    jobs = [each for variant in ("a", "b") for each in first_jobs(training(variant))]
    with Store.create(folder, plan(jobs)) as store:
        go_on(store, jobs, executor)
        yield store


def go_on(store: Store, jobs: Iterable[Job], executor: Scripted) -> None:
    known = store.records()
    session(store, executor).perform(list(jobs), history=known)
    session(store, executor).search_learning_rates()


def interrupted_after(count: int) -> Scripted:
    """Return an executor that is interrupted after so many jobs."""
    done = []

    def cut(one: Job) -> Outcome:
        if len(done) == count:
            raise KeyboardInterrupt
        done.append(one)
        return answer(one)

    return Scripted(cut)


def outcomes(store: Store) -> dict[str, Outcome]:
    return {each.job.key: each.outcome for each in store.records()}


def test_a_search_interrupted_anywhere_resumes_to_the_same_end(tmp_path: Path) -> None:
    (store,) = search(tmp_path / "whole", Scripted(answer))
    expected, jobs = outcomes(store), store.plan.jobs
    assert len(jobs) == 2 * (3 + 1 + 2)
    for count in range(len(jobs)):
        with pytest.raises(KeyboardInterrupt):
            list(search(tmp_path / f"{count}", interrupted_after(count)))
        (path,) = (tmp_path / f"{count}").iterdir()
        with Store.open(path, write=True) as store:
            go_on(store, store.pending(), Scripted(answer))
            assert outcomes(store) == expected, count
            assert [each.key for each in store.plan.jobs] == [each.key for each in jobs]


def test_the_table_shows_the_seeds_and_a_trial_only_where_it_is_asked_for(tmp_path: Path) -> None:
    (store,) = search(tmp_path, Scripted(answer))
    found = rows(store.records(), store.plan.jobs)
    shown = [row for row in found if row.primary]
    assert [(row.case.variant, row.metric, row.task, row.samples) for row in shown] == [
        ("a", "accuracy", "mqar:preset=small", 2),
        ("b", "accuracy", "mqar:preset=small", 2),
    ]
    assert {row.facts["learning_rate"] for row in shown} == {3.16e-2}
    assert [row.medians for row in shown] == [{1: 0.91, 2: 0.92}] * 2
    assert [row.value for row in shown] == [pytest.approx(0.915)] * 2  # the mean, never the best
    trials = {row.task for row in found if row.metric == "search_accuracy"}
    assert trials == {f"mqar:preset=small,learning_rate={rate:g}" for rate in (3.16e-3, 1e-2, 3.16e-2, 0.1)}
