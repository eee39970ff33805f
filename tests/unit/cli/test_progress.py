import threading
from pathlib import Path

import pytest
from msgspec.structs import replace

from attnbench.cli.progress import Progress
from attnbench.contracts.record import Record
from attnbench.execute.executor import Progressed, Started
from attnbench.session import Opened
from helpers.planted import ENVIRONMENT, job, ok, plan


def opened(jobs, *, records=(), threads=1, budget_s=None):
    planned = replace(plan(jobs), environment=replace(ENVIRONMENT, threads=threads), budget_s=budget_s)
    return Opened(path=Path("results/a"), plan=planned, jobs=tuple(jobs), records=tuple(records))


def done(of, seconds, outcome=None):
    return Record(run="r", job=of, outcome=outcome or ok(), seconds=seconds)


def test_the_words_of_a_job_name_its_task_level_and_the_options_in_which_namesakes_differ():
    few, many = (replace(job("a"), case=replace(job("a").case, options={"k": k, "same": 1})) for k in (16, 32))
    layer = replace(job("b"), case=replace(job("b").case, level="layer"))
    training = replace(job("b", kind="accuracy"), probe=replace(job("b", kind="accuracy").probe, task="mqar"))
    named = Progress(opened([few, many, layer, training])).named
    assert named(few) == "latency forward a:k=16 seq 512 heads 8 round 1/5"
    assert named(many) == "latency forward a:k=32 seq 512 heads 8 round 1/5"
    assert named(layer) == "latency forward layer level b seq 512 heads 8 round 1/5"
    assert named(training).startswith("mqar")


def test_the_time_left_is_not_more_than_the_time_budget_leaves():
    progress = Progress(opened([job("a", number=number) for number in range(1, 6)], budget_s=100.0))
    progress.update(done(job("a", number=1), 60.0))
    assert 99 < progress.view().left_s <= 100
    resumed = [done(job("a", number=1), 60.0)]
    assert 39 < Progress(opened([job("a", number=2)], records=resumed, budget_s=100.0)).view().left_s <= 40


def test_a_training_that_says_how_far_it_is_tells_how_long_it_and_others_take(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    first, second = (replace(job("a", kind="accuracy"), round=number) for number in (1, 2))
    progress = Progress(opened([first, second]))
    progress.update(Started(job=first))
    now[0] = 30.0
    progress.update(Progressed(job=first, text="step 100/400, loss 2"))
    assert progress.view().left_s == pytest.approx(90 + 120)


def test_a_view_tells_what_runs_with_its_last_words_and_how_much_is_done():
    first, second = job("a"), job("b")
    progress = Progress(opened([first, second]))
    progress.update(Started(job=first))
    progress.update(Progressed(job=first, text="step 3"))
    view = progress.view()
    assert (view.running, view.done, view.total) == (((first, "step 3"),), 0, 2)
    progress.update(done(first, 1.0))
    assert (progress.view().running, progress.view().done) == ((), 1)


def test_it_can_be_viewed_while_another_thread_updates_it():
    jobs = [job(f"v{number}") for number in range(400)]
    progress = Progress(opened(jobs))
    failures = []

    def look():
        try:
            while progress.view().done < len(jobs):
                pass
        except RuntimeError as error:
            failures.append(error)

    watcher = threading.Thread(target=look)
    watcher.start()
    for each in jobs:
        progress.update(Started(job=each))
        progress.update(done(each, 0.1))
    watcher.join()
    assert failures == []
