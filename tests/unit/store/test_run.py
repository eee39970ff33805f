"""One run's folder: what is written comes back, and what is still to do."""

import os
import statistics
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from attnbench.contracts.record import Environment
from attnbench.store import Store, lines
from stored_runs import (
    ENVIRONMENT,
    RUN,
    make_job,
    make_plan,
    make_record,
    number_of,
)


@pytest.fixture
def store(tmp_path):
    with Store.create(tmp_path / "results", make_plan(4)) as created:
        yield created


# A run comes back as it was written.


def test_a_plan_reads_back_equal(store):
    again = Store.open(store.path, write=False)
    assert again.plan == make_plan(4)
    assert again.plan.environment == ENVIRONMENT


def test_a_new_run_is_a_folder_with_its_plan_and_an_empty_journal(store):
    assert store.path.name == RUN
    assert {file.name for file in store.path.iterdir()} == {"plan.json", "events.jsonl", ".lock"}
    assert (store.path / "events.jsonl").read_bytes() == b""


def test_records_are_read_in_the_order_written(store):
    written = [make_record(2), make_record(0, "timeout", detail="no answer for 120 s"), make_record(1)]
    for record in written:
        store.append(record)
    assert store.records() == written
    assert Store.open(store.path, write=False).records() == written


def test_environments_are_found_by_key_the_plans_own_included(store):
    other = Environment(attnbench="0.1.0", torch="2.11.0")
    store.append(other)
    assert store.environments() == {ENVIRONMENT.key: ENVIRONMENT, other.key: other}


def test_a_record_that_could_not_be_read_back_is_refused_and_the_journal_is_unchanged(store):
    store.append(make_record(0))
    before = (store.path / "events.jsonl").read_bytes()
    with pytest.raises(ValueError, match="seconds"):
        store.append(replace(make_record(1), seconds=float("nan")))
    assert (store.path / "events.jsonl").read_bytes() == before


def test_a_run_and_a_record_are_on_the_disk_before_they_are_acknowledged(tmp_path, monkeypatch):
    real, waited_for = os.fsync, []

    def note(descriptor):
        waited_for.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        real(descriptor)

    monkeypatch.setattr("os.fsync", note)
    with Store.create(tmp_path / "new" / "results", make_plan(1)) as store:
        draft, *folders = waited_for
        assert draft.parent == store.path
        assert folders[0] == store.path  # after the rename, whose trace it keeps
        assert set(folders) == {store.path, *list(store.path.parents)[:3]}
        waited_for.clear()
        store.append(make_record(0))
        assert waited_for == [store.path / "events.jsonl"]


def test_a_reader_cannot_append(store):
    with pytest.raises(AssertionError, match="opened for reading"):
        Store.open(store.path, write=False).append(make_record(0))


def test_closing_twice_does_nothing(store):
    store.close()
    store.close()
    with pytest.raises(AssertionError, match="closed"):
        store.append(make_record(0))


# What is done, and what is still to do.


def test_a_job_without_a_record_is_pending(store):
    store.append(make_record(1))
    store.append(make_record(3, "crash", detail="signal 11"))
    assert store.pending() == [make_job(0), make_job(2)]


def test_an_interrupted_job_is_pending_as_its_next_attempt(store):
    store.append(make_record(0, "interrupted"))
    store.append(make_record(1, "interrupted", attempt=3))
    assert store.pending() == [make_job(0, attempt=2), make_job(1, attempt=4), make_job(2), make_job(3)]


def test_jobs_with_a_status_to_retry_are_pending_again(store):
    for number, status in enumerate(("ok", "timeout", "oom_host", "unsupported")):
        store.append(make_record(number, status))
    assert store.pending() == []
    assert store.pending(retry={"timeout", "oom_host"}) == [make_job(1, attempt=2), make_job(2, attempt=2)]


def test_the_highest_attempt_counts_whatever_the_order_of_writing(store):
    for record in (make_record(0, attempt=2), make_record(0, "error", attempt=1), make_record(1, "error")):
        store.append(record)
    assert [record.outcome.status for record in store.records()] == ["ok", "error"]


def test_the_last_of_two_records_of_one_attempt_counts(store):
    store.append(make_record(0, "error"))
    store.append(make_record(0, "ok"))
    assert store.records() == [make_record(0, "ok")]


def test_an_edited_plugin_is_measured_again(store):
    store.append(make_record(0))
    edited = [replace(job, origin=replace(job.origin, source_hash="f" * 16)) for job in store.plan.jobs]
    renewed = Store.create(store.path.parent, store.plan.with_jobs(tuple(edited)))
    renewed.append(make_record(0))
    renewed.close()
    assert renewed.pending() == edited


# Speed, with room for a busy machine.


def test_10_000_records_of_20_samples_load_within_3_seconds(store):
    whole = b"".join(lines.to_line(make_record(number, samples=20)) for number in range(10_000))
    (store.path / "events.jsonl").write_bytes(whole)
    start = time.perf_counter()
    assert [number_of(record) for record in store.records()] == list(range(10_000))
    assert time.perf_counter() - start < 3


def test_an_append_takes_less_than_5_ms_besides_the_disk(store, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    spans = []
    for number in range(50):
        start = time.perf_counter()
        store.append(make_record(number, samples=1000))
        spans.append(time.perf_counter() - start)
    assert statistics.median(spans) < 0.005
