"""Several runs as one, and what becomes of their rounds, their records and their names."""

import pytest
from msgspec.structs import replace

from attnbench.contracts.errors import DamagedStore
from attnbench.contracts.record import Job, Outcome, Record
from attnbench.runs import Run
from attnbench.store import Store, merge, verify
from helpers.planted import ENVIRONMENT, job, ok, plan
from stored_runs import add_line

AFRESH = "20260102-000000-aaaa"


def stored(out, run, jobs: list[Job], *outcomes: Outcome):
    """Store a run with an outcome for each job."""
    with Store.create(out, plan(jobs, run=run)) as store:
        store.append(ENVIRONMENT)
        for each, outcome in zip(jobs, outcomes, strict=False):
            store.append(Record(run=run, job=each, outcome=outcome, environment=ENVIRONMENT.key, seconds=1.0))
        return store.path


def latencies(path):
    return {(row.case.variant, row.case.shape.seq_q): row for row in Run(path).rows() if row.metric == "latency"}


def test_rounds_of_the_same_case_add_up_and_are_never_paired_across_runs(tmp_path):
    rounds = [job(number=number) for number in (1, 2)]
    first = stored(tmp_path, "20260101-000000-aaaa", rounds, ok(10), ok(20))
    second = stored(tmp_path, AFRESH, [*rounds, job("flash")], ok(30), ok(40), ok(50))
    merged = merge([first, second], tmp_path, ("merge",))
    found = latencies(merged)
    assert found["vanilla", 512].medians == pytest.approx({1: 1e-8, 2: 2e-8, 3: 3e-8, 4: 4e-8})
    assert list(found["flash", 512].medians) == [3]
    assert verify(merged).pending == 0
    assert verify(merged).planned == 5


def test_every_record_keeps_the_run_it_comes_from_even_after_a_second_merge(tmp_path):
    first = stored(tmp_path, "20260101-000000-aaaa", [job()], ok(1))
    second = stored(tmp_path, AFRESH, [job("flash")], ok(2))
    third = stored(tmp_path, "20260103-000000-aaaa", [job("linear")], ok(3))
    whole = merge([merge([first, second], tmp_path, ("merge",)), third], tmp_path, ("merge",))
    with Store.open(whole, write=False) as store:
        assert [record.run for record in store.records()] == [path.name for path in (first, second, third)]
        assert store.plan.sources == (first.name, second.name, third.name)
        assert {row.run for row in Run(whole).rows()} == {whole.name}
        assert list(store.environments().values()) == [ENVIRONMENT]


def test_a_job_without_timed_rounds_is_merged_into_one_and_the_last_runs_record_counts(tmp_path):
    jobs = [job(kind="memory")]
    failed = Outcome(status="crash", detail="signal 11")
    first, second = stored(tmp_path, "20260101-000000-aaaa", jobs, failed), stored(tmp_path, AFRESH, jobs, ok(1))
    report = verify(merge([first, second], tmp_path, ("merge",)))
    assert (report.planned, report.statuses) == (1, {"ok": 1})


def test_jobs_that_a_run_has_not_measured_are_pending_in_the_merged_run(tmp_path):
    first = stored(tmp_path, "20260101-000000-aaaa", [job(), job(number=2)], ok(1))
    second = stored(tmp_path, AFRESH, [job("flash")], ok(2))
    with Store.open(merge([first, second], tmp_path, ("merge",)), write=False) as store:
        (left,) = store.pending()
        assert (left.case.variant, left.round) == ("vanilla", 2)


def test_trained_weights_are_copied(tmp_path):
    first = stored(tmp_path, "20260101-000000-aaaa", [job()], ok(1))
    second = stored(tmp_path, AFRESH, [job("flash")], ok(2))
    (second / "checkpoints").mkdir()
    (second / "checkpoints" / "key.pt").write_bytes(b"weights")
    merged = merge([first, second], tmp_path, ("merge",))
    assert (merged / "checkpoints" / "key.pt").read_bytes() == b"weights"


def test_a_damaged_run_is_refused_and_nothing_is_left(tmp_path):
    first = stored(tmp_path, "20260101-000000-aaaa", [job()], ok(1))
    second = stored(tmp_path, AFRESH, [job("flash")], ok(2))
    with Store.open(second, write=False) as store:
        add_line(store, b"torn\n")
    with pytest.raises(DamagedStore, match="broken lines"):
        merge([first, second], tmp_path, ("merge",))
    assert len(list(tmp_path.iterdir())) == 2


def test_merging_leaves_its_runs_as_they_were(tmp_path):
    paths = [stored(tmp_path, name, [replace(job(), round=1)], ok(1)) for name in ("20260101-000000-aaaa", AFRESH)]
    before = [(path / "events.jsonl").read_bytes() for path in paths]
    merge(paths, tmp_path, ("merge",))
    assert [(path / "events.jsonl").read_bytes() for path in paths] == before
