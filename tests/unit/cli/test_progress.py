import threading
from pathlib import Path

from msgspec.structs import replace

from attnbench.cli.progress import Left, Progress
from attnbench.contracts.record import Outcome, Record
from attnbench.execute.executor import Progressed, Started
from attnbench.session import Opened
from helpers.planted import ENVIRONMENT, job, ok, plan


def opened(jobs, *, records=(), threads=1):
    planned = replace(plan(jobs), environment=replace(ENVIRONMENT, threads=threads))
    return Opened(path=Path("results/a"), plan=planned, jobs=tuple(jobs), records=tuple(records))


def done(of, seconds, outcome=None):
    return Record(run="r", job=of, outcome=outcome or ok(), seconds=seconds)


def test_nothing_is_said_of_the_time_left_before_anything_is_done():
    assert Progress(opened([job()])).view().left is None


def test_a_later_round_is_expected_to_take_what_the_earlier_one_took_and_others_the_mean_of_their_kind():
    first, later, other = job("a", number=1), job("a", number=2), job("b", number=1)
    progress = Progress(opened([first, later, other, job("c")]))
    progress.update(done(first, 4.0))
    progress.update(done(other, 8.0))
    assert progress.view().left == Left(seconds=4.0 + 6.0, whole=True)


def test_a_kind_not_timed_yet_adds_nothing_and_makes_the_time_a_lower_bound():
    first, training = job("a"), job("a", kind="accuracy")
    progress = Progress(opened([first, job("b"), training]))
    progress.update(done(first, 2.0))
    assert progress.view().left == Left(seconds=2.0, whole=False)


def test_what_a_resumed_run_has_already_measured_counts():
    known = done(job("a", number=1), 3.0)
    assert Progress(opened([job("a", number=2)], records=[known])).view().left == Left(seconds=3.0, whole=True)


def test_skipped_and_interrupted_jobs_do_not_count_for_their_kind():
    records = [done(job("a"), 0.0, Outcome(status=status)) for status in ("skipped", "interrupted")]
    assert Progress(opened([job("b")], records=records)).view().left is None


def test_trainings_share_the_time_and_timed_jobs_do_not():
    trainings = [replace(job("a", kind="accuracy"), round=number) for number in (1, 2, 3, 4)]
    known = [done(trainings[0], 10.0), done(job("a", number=1), 5.0)]
    progress = Progress(opened([*trainings[1:], job("a", number=2)], records=known, threads=3))
    assert progress.view().left == Left(seconds=30.0 / 3 + 5.0, whole=True)


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
