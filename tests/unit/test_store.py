import gc
import json
import os
import shutil
import statistics
import time
import zlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from attnbench.errors import DamagedStore, UsageError
from attnbench.record import SCHEMA, Environment, Measurement, Outcome
from attnbench.store import Store, find_run, lines, list_runs, new_run_id, verify
from stored_runs import CREATED_S, ENVIRONMENT, RUN, make_job, make_plan, make_record, number_of


def sealed(event: bytes) -> bytes:
    """Wrap any bytes as a line whose checksum is right."""
    return b'{"crc32":"%08x","event":%s}\n' % (zlib.crc32(event), event)


def add_line(store: Store, line: bytes) -> None:
    with (store.path / "events.jsonl").open("ab") as journal:
        journal.write(line)


@pytest.fixture
def store(tmp_path):
    with Store.create(tmp_path / "results", make_plan(4)) as created:
        yield created


# A run comes back as it was written.


def test_a_plan_comes_back_as_it_was_given(store):
    again = Store.open(store.path, write=False)
    assert again.plan == make_plan(4)
    assert again.plan.environment == ENVIRONMENT


def test_a_new_run_is_a_folder_with_its_plan_and_an_empty_journal(store):
    assert store.path.name == RUN
    assert {file.name for file in store.path.iterdir()} == {"plan.json", "events.jsonl", ".lock"}
    assert (store.path / "events.jsonl").read_bytes() == b""


def test_records_come_back_in_the_order_written(store):
    written = [make_record(2), make_record(0, "timeout", detail="no answer for 120 s"), make_record(1)]
    for record in written:
        store.append(record)
    assert store.records() == written
    assert Store.open(store.path, write=False).records() == written


def test_an_environment_is_known_by_its_key_beside_the_plan_s_own(store):
    other = Environment(attnbench="0.1.0", torch="2.11.0")
    store.append(other)
    assert store.environments() == {ENVIRONMENT.key: ENVIRONMENT, other.key: other}


TEXT = st.text(st.characters(exclude_categories=("Cs",)))
OUTCOMES = st.builds(
    Outcome,
    status=st.sampled_from(["ok", "error", "crash", "interrupted"]),
    detail=TEXT,
    log=TEXT,
    facts=st.dictionaries(
        TEXT, st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, width=64) | TEXT
    ),
    measurements=st.lists(
        st.builds(
            Measurement,
            metric=TEXT,
            unit=st.sampled_from(["ns", "s", "bytes", "1"]),
            values=st.lists(st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)).map(tuple),
        )
    ).map(tuple),
)


@given(outcome=OUTCOMES)
def test_any_outcome_is_one_line_that_reads_back_equal(outcome):
    record = replace(make_record(0), outcome=outcome)
    line = lines.to_line(record)
    assert line.count(b"\n") == 1
    finite = {key: None if value in {float("inf"), -float("inf")} else value for key, value in outcome.facts.items()}
    assert lines.from_line(line) == replace(record, outcome=replace(outcome, facts=finite))


def test_a_record_that_could_not_be_read_back_is_refused_and_leaves_the_journal_as_it_was(store):
    store.append(make_record(0))
    before = (store.path / "events.jsonl").read_bytes()
    with pytest.raises(ValueError, match="seconds"):
        store.append(replace(make_record(1), seconds=float("nan")))
    assert (store.path / "events.jsonl").read_bytes() == before


def test_the_disk_is_waited_for_before_a_run_or_a_record_is_acknowledged(tmp_path, monkeypatch):
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


def test_reading_leaves_the_garbage_collector_as_it_was(store):
    add_line(store, sealed(b'{"event":"record","schema":99}'))
    with pytest.raises(UsageError):
        store.records()
    assert gc.isenabled()


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


def test_jobs_of_the_statuses_to_retry_are_pending_again(store):
    for number, status in enumerate(("ok", "timeout", "oom_host", "unsupported")):
        store.append(make_record(number, status))
    assert store.pending() == []
    assert store.pending(retry={"timeout", "oom_host"}) == [make_job(1, attempt=2), make_job(2, attempt=2)]


def test_the_highest_attempt_counts_whenever_it_was_written(store):
    for record in (make_record(0, attempt=2), make_record(0, "error", attempt=1), make_record(1, "error")):
        store.append(record)
    assert [record.outcome.status for record in store.records()] == ["ok", "error"]


def test_of_two_records_of_one_attempt_the_last_counts(store):
    store.append(make_record(0, "error"))
    store.append(make_record(0, "ok"))
    assert store.records() == [make_record(0, "ok")]


def test_an_edited_plugin_is_measured_again(store):
    store.append(make_record(0))
    edited = [replace(job, origin=replace(job.origin, source_hash="f" * 16)) for job in store.plan.jobs]
    renewed = Store.create(store.path.parent, replace(store.plan, jobs=tuple(edited)))
    renewed.append(make_record(0))
    renewed.close()
    assert renewed.pending() == edited


# The format outlives its versions.


def test_a_line_is_its_checksum_and_its_event(store):
    store.append(make_record(0))
    line = (store.path / "events.jsonl").read_bytes()
    event = line[line.index(b'"event":') + len(b'"event":') : -2]
    assert json.loads(line)["crc32"] == f"{zlib.crc32(event):08x}"
    assert json.loads(event)["event"] == "record"


def test_every_event_says_its_schema(store):
    store.append(make_record(0))
    store.append(ENVIRONMENT)
    stored = [store.path / "plan.json", store.path / "events.jsonl"]
    events = [json.loads(line)["event"] for file in stored for line in file.read_text().splitlines()]
    assert [event["schema"] for event in events] == [SCHEMA] * 3


def test_events_of_unknown_kinds_are_skipped_and_counted(store):
    add_line(store, sealed(b'{"event":"weather","schema":1,"rain":true}'))
    store.append(make_record(0))
    assert store.records() == [make_record(0)]
    assert verify(store.path).unknown == 1
    assert verify(store.path).sound


def test_an_unknown_field_is_passed_over_and_stays_in_the_line(store):
    event = msgspec.json.encode({**msgspec.to_builtins(make_record(0)), "humidity": 0.4})
    add_line(store, sealed(event))
    store.append(make_record(1))
    assert store.records() == [make_record(0), make_record(1)]
    assert b'"humidity":0.4' in (store.path / "events.jsonl").read_bytes()


@pytest.mark.parametrize("kind", ["record", "weather"])
def test_a_newer_schema_in_the_journal_is_refused_with_a_sentence(store, kind):
    add_line(store, sealed(b'{"event":"%s","schema":99}' % kind.encode()))
    with pytest.raises(UsageError, match=r"newer attnbench \(schema 99, here 1\): upgrade it"):
        store.records()


def test_a_newer_plan_is_refused_with_a_sentence(store):
    (store.path / "plan.json").write_bytes(sealed(b'{"event":"plan","schema":2,"run":7}'))
    with pytest.raises(UsageError, match="newer attnbench"):
        Store.open(store.path, write=True)
    assert "newer attnbench" in list_runs(store.path.parent)[0].damage


def test_an_older_schema_passes_through_every_upgrade(store, monkeypatch):
    def rename_result(event):
        return {**event, "schema": -1, "outcome": event.pop("result")}

    def split_status(event):
        return {**event, "schema": 0, "outcome": {"status": event["outcome"]}}

    def to_current(event):
        return {**event, "schema": 1, "seconds": 2.5}

    monkeypatch.setattr(lines, "UPGRADES", {-2: rename_result, -1: split_status, 0: to_current})
    old = msgspec.to_builtins(make_record(0))
    old = {key: value for key, value in old.items() if key != "outcome"} | {"schema": -2, "result": "timeout"}
    add_line(store, sealed(msgspec.json.encode(old)))
    (record,) = store.records()
    assert record == replace(make_record(0), outcome=Outcome(status="timeout"), seconds=2.5)


def test_a_schema_that_was_never_published_is_a_broken_line(store):
    add_line(store, sealed(b'{"event":"record","schema":0}'))
    (broken,) = verify(store.path).broken
    assert broken.why == "its schema 0 was never published"


def test_a_sound_line_that_is_no_record_is_broken_and_says_which_field(store):
    event = msgspec.json.encode({**msgspec.to_builtins(make_record(0)), "started_s": "noon"})
    add_line(store, sealed(event))
    (broken,) = verify(store.path).broken
    assert "started_s" in broken.why


# Runs and their names.


def test_run_ids_sort_by_time_and_are_plain_folder_names():
    ids = [new_run_id(CREATED_S + second) for second in range(0, 10**8, 10**6 + 1)]
    assert ids == sorted(ids)
    assert ids[0][:15] == "20261122-121405"
    assert all(set(run) <= set("0123456789abcdefghijklmnopqrstuvwxyz-") for run in ids)


def test_a_run_whose_id_is_taken_draws_another(store):
    with Store.create(store.path.parent, make_plan(4)) as second:
        assert second.path != store.path
        assert second.plan.run == second.path.name
        assert second.plan.run[:15] == RUN[:15]
        assert Store.open(second.path, write=False).plan == second.plan


@pytest.fixture
def shelf(tmp_path):
    """Three runs, two of which begin alike, and things that are no runs."""
    for run in ("20261122-121405-aaaa", "20261122-121405-abbb", "20261123-000000-cccc"):
        Store.create(tmp_path, make_plan(2, run=run)).close()
    (tmp_path / "README.md").write_text("what these are")
    (tmp_path / "notes").mkdir()
    (tmp_path / "20261124-000000-dddd").mkdir()
    (tmp_path / "20261124-000000-dddd" / "events.jsonl").touch()  # killed before its plan was there
    return tmp_path


@pytest.mark.parametrize("name", ["20261123-000000-cccc", "20261123", "latest"])
def test_a_run_is_found_by_its_id_its_beginning_or_as_the_latest(shelf, name):
    assert find_run(name, shelf) == shelf / "20261123-000000-cccc"


def test_a_run_is_found_by_its_path_wherever_it_lies(shelf, tmp_path_factory):
    path = shelf / "20261122-121405-aaaa"
    assert find_run(str(path), tmp_path_factory.mktemp("elsewhere")) == path


def test_the_latest_is_the_newest_run_not_the_last_name(shelf):
    Store.create(shelf, make_plan(1, run="reference")).close()
    assert find_run("latest", shelf).name == "20261123-000000-cccc"
    assert find_run("ref", shelf).name == "reference"


def test_a_beginning_that_two_runs_share_names_both(shelf):
    with pytest.raises(UsageError, match="20261122-121405-aaaa, 20261122-121405-abbb"):
        find_run("20261122", shelf)


def test_no_name_at_all_is_no_run_even_where_the_folder_is_one(shelf):
    with pytest.raises(UsageError, match="no run is called ''"):
        find_run("", shelf / "20261122-121405-aaaa")


def test_a_mistyped_run_is_answered_with_the_nearest(shelf):
    with pytest.raises(UsageError, match="did you mean 20261122-121405-abbb"):
        find_run("20261122-121405-bbbb", shelf)


@pytest.mark.parametrize("name", ["", "zzz", "../" * 40, "x\0y", "n" * 5000, "\udcff", "README.md", "notes"])
def test_a_name_of_no_run_is_answered_with_the_newest(shelf, name):
    with pytest.raises(UsageError, match="the newest are 20261122-121405-aaaa, 20261122-121405-abbb, 20261123"):
        find_run(name, shelf)


def test_a_run_in_an_empty_or_missing_folder_is_a_usage_error(tmp_path):
    for out in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UsageError, match=r"no run is called 'latest' under .*; there are none"):
            find_run("latest", out)


def test_runs_are_listed_with_what_is_done(store):
    store.append(make_record(0))
    store.append(make_record(1, "timeout"))
    store.append(make_record(2, "interrupted"))
    (summary,) = list_runs(store.path.parent)
    assert (summary.run, summary.created_s, summary.planned, summary.done) == (RUN, CREATED_S, 4, 2)
    assert summary.statuses == {"ok": 1, "timeout": 1}
    assert summary.command == ("attnbench", "run", "--seq", "512")


def test_what_is_no_run_is_not_listed_and_what_is_damaged_is_listed_as_such(shelf):
    (shelf / "20261122-121405-abbb" / "plan.json").write_bytes(b"not a plan")
    orphaned = shelf / "20261125-000000-eeee"
    orphaned.mkdir()
    (orphaned / "events.jsonl").write_bytes(lines.to_line(make_record(0)))
    summaries = {summary.run: summary.damage for summary in list_runs(shelf)}
    assert list(summaries) == sorted(summaries)
    assert [bool(damage) for damage in summaries.values()] == [False, True, False, True]
    assert "has no plan.json" in summaries["20261125-000000-eeee"]


def test_a_folder_that_is_no_run_cannot_be_opened(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(DamagedStore, match=r"has no plan\.json"):
            Store.open(path, write=True)
        assert not (path / ".lock").exists()


# Verification.


def test_verify_counts_every_planned_job_once(store):
    for record in (
        make_record(0),
        make_record(1, "error"),
        make_record(1, "ok", attempt=2),
        make_record(2, "interrupted"),
        make_record(2, "interrupted"),
        make_record(77),
    ):
        store.append(record)
    report = verify(store.path)
    assert (report.run, report.planned, report.pending) == (RUN, 4, 2)
    assert report.statuses == {"ok": 2}
    assert (report.duplicates, report.orphans, report.unknown) == (1, 1, 0)
    assert report.sound


def test_statuses_are_counted_in_one_order_and_a_job_planned_twice_as_one(tmp_path):
    plan = make_plan(3)
    with Store.create(tmp_path, replace(plan, jobs=plan.jobs * 2)) as store:
        for number, status in enumerate(("timeout", "crash", "error")):
            store.append(make_record(number, status))
    for counted in (verify(store.path), list_runs(tmp_path)[0]):
        assert list(counted.statuses.items()) == [("crash", 1), ("error", 1), ("timeout", 1)]
        assert counted.planned == 3


def test_verify_says_where_a_line_broke_and_keeps_its_bytes_apart(store):
    store.append(make_record(0))
    first = (store.path / "events.jsonl").stat().st_size
    add_line(store, b"\xff{half a line\n")
    store.append(make_record(1))
    before = (store.path / "events.jsonl").read_bytes()
    report = verify(store.path)
    (broken,) = report.broken
    assert (broken.line, broken.offset, broken.raw) == (2, first, b"\xff{half a line")
    assert not report.sound
    assert report.statuses == {"ok": 2}
    assert (store.path / "events.jsonl").read_bytes() == before
    kept = msgspec.json.decode((store.path / "quarantine.jsonl").read_bytes(), type=lines.Broken)
    assert kept == broken


def test_verifying_again_changes_nothing(store):
    add_line(store, b"torn\n")
    assert verify(store.path) == verify(store.path)
    assert len((store.path / "quarantine.jsonl").read_bytes().splitlines()) == 1


def test_a_sound_run_gets_no_quarantine(store):
    report = verify(store.path)
    assert report.quarantine == ""
    assert not (store.path / "quarantine.jsonl").exists()


def test_verify_reports_a_missing_plan_and_still_counts_the_records(store):
    store.append(make_record(0))
    (store.path / "plan.json").unlink()
    report = verify(store.path)
    assert not report.sound
    assert "has no plan.json" in report.damage
    assert (report.planned, report.orphans) == (0, 1)


def test_a_plan_that_holds_another_event_is_damaged(store):
    (store.path / "plan.json").write_bytes(lines.to_line(make_record(0)))
    with pytest.raises(DamagedStore, match="it holds no plan"):
        Store.open(store.path, write=False)


# Speed, with room for a busy machine.


def test_ten_thousand_records_of_twenty_samples_load_within_three_seconds(store):
    whole = b"".join(lines.to_line(make_record(number, samples=20)) for number in range(10_000))
    (store.path / "events.jsonl").write_bytes(whole)
    start = time.perf_counter()
    assert [number_of(record) for record in store.records()] == list(range(10_000))
    assert time.perf_counter() - start < 3


def test_an_append_costs_less_than_five_milliseconds_besides_the_disk(store, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    spans = []
    for number in range(50):
        start = time.perf_counter()
        store.append(make_record(number, samples=1000))
        spans.append(time.perf_counter() - start)
    assert statistics.median(spans) < 0.005


# Schema 1 loads for ever: its files stay as they are, and so do the keys by which resuming knows a job.

GOLDEN = Path(__file__).parents[1] / "golden" / "journal-v1" / "20260101-000000-v2v2"
GOLDEN_STATUSES = {
    "76dfabc37908d0a3": "ok",
    "5af01ede007429e9": "ok",
    "818811673b9891b7": "unsupported",
    "6208a39595f630f2": "interrupted",
    "3e97974328f7b76e": "ok",
    "1ef14514cc37901c": None,
}


def test_a_plan_of_schema_1_loads_with_its_jobs_under_the_keys_they_had():
    run = Store.open(GOLDEN, write=False)
    assert [job.key for job in run.plan.jobs] == list(GOLDEN_STATUSES)
    assert (run.plan.run, run.plan.created_s) == (GOLDEN.name, 1767225600.25)
    assert run.plan.jobs[1].case.options == {
        "rounds": 4, "bucket": 64, "share": True, "rate": 0.5, "name": "a", "none": None,
    }  # fmt: skip


def test_records_of_schema_1_load_with_every_value():
    run = Store.open(GOLDEN, write=False)
    records = {record.job.key: record for record in run.records()}
    assert {key: record.outcome.status for key, record in records.items()} == {
        key: status for key, status in GOLDEN_STATUSES.items() if status
    }
    first, retried, refused, _, accuracy = records.values()
    assert first.outcome.measurements[0].values == (1234567, 1234568)
    assert first.outcome.facts == {"stop": "noise", "calls": 20, "share": 0.25, "hot": False, "none": None}
    assert (retried.job.attempt, retried.outcome.measurements[0].values) == (2, (0.5, 2, None))
    assert refused.outcome.detail == "h\xe9ll\xf6 \u4f60\u597d \0 \x1b[31m \U0001f600 \\udcff <script> =cmd"
    assert accuracy.outcome.measurements[0].higher_is_better
    assert {record.environment for record in records.values()} == set(run.environments())


def test_a_run_of_schema_1_can_be_resumed_and_verified(tmp_path):
    path = shutil.copytree(GOLDEN, tmp_path / GOLDEN.name)
    report = verify(path)
    with Store.open(path, write=True) as run:
        assert run.pending() == [replace(run.plan.jobs[3], attempt=2), run.plan.jobs[5]]
    assert (report.planned, report.statuses, report.pending) == (6, {"ok": 3, "unsupported": 1}, 2)
    assert (report.unknown, [broken.line for broken in report.broken]) == (1, [9])


def test_this_version_still_writes_schema_1_byte_for_byte():
    journal = (GOLDEN / "events.jsonl").read_bytes().splitlines(keepends=True)
    written = [lines.to_line(record) for record in lines.read_journal(GOLDEN).records[:-1]]
    assert (GOLDEN / "plan.json").read_bytes() == lines.to_line(Store.open(GOLDEN, write=False).plan)
    assert written == [journal[index] for index in (1, 2, 4, 5, 6)]
