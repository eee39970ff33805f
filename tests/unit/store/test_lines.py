"""The format of a stored run, and that it outlives its versions."""

import json
import shutil
import zlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from attnbench.analysis.rows import rows
from attnbench.contracts.errors import DamagedStore, UsageError
from attnbench.contracts.record import Measurement, Outcome, Rates
from attnbench.store import Store, lines, list_runs, verify
from attnbench.store.reading import read_journal
from stored_runs import ENVIRONMENT, RUN, add_line, make_job, make_plan, make_record, sealed


@pytest.fixture
def store(tmp_path):
    with Store.create(tmp_path / "results", make_plan(4)) as created:
        yield created


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


# The format outlives its versions.


def test_a_line_is_its_checksum_and_its_event(store):
    store.append(make_record(0))
    line = (store.path / "events.jsonl").read_bytes()
    event = line[line.index(b'"event":') + len(b'"event":') : -2]
    assert json.loads(line)["crc32"] == f"{zlib.crc32(event):08x}"
    assert json.loads(event)["event"] == "record"


def test_every_event_names_its_schema(store):
    store.append(make_record(0))
    store.append(ENVIRONMENT)
    stored = [store.path / "plan.json", store.path / "events.jsonl"]
    events = [json.loads(line)["event"] for file in stored for line in file.read_text().splitlines()]
    assert [event["event"] for event in events] == ["plan", "record", "environment"]
    assert [event["schema"] for event in events] == [2, 1, 1] == [lines.SCHEMAS[event["event"]] for event in events]


def test_rates_are_stored_as_an_event_and_the_last_one_counts(store):
    assert store.rates() is None
    store.append(Rates(device="cpu", threads=2, reason="the machine was busy"))
    store.append(make_record(0))
    last = Rates(device="cpu", threads=2, bytes_per_s=2e10, flops_per_s={"float32": 1e11, "bfloat16": None})
    store.append(last)
    assert (store.rates(), store.records()) == (last, [make_record(0)])
    assert Store.open(store.path, write=False).rates() == last
    assert verify(store.path).unknown == 0
    assert b'"event":"rates","schema":1' in (store.path / "events.jsonl").read_bytes()


def test_events_of_unknown_kinds_are_skipped_and_counted(store):
    add_line(store, sealed(b'{"event":"weather","schema":1,"rain":true}'))
    store.append(make_record(0))
    assert store.records() == [make_record(0)]
    assert verify(store.path).unknown == 1
    assert verify(store.path).sound


def test_an_unknown_field_is_ignored_and_stays_in_the_line(store):
    event = msgspec.json.encode({**msgspec.to_builtins(make_record(0)), "humidity": 0.4})
    add_line(store, sealed(event))
    store.append(make_record(1))
    assert store.records() == [make_record(0), make_record(1)]
    assert b'"humidity":0.4' in (store.path / "events.jsonl").read_bytes()


@pytest.mark.parametrize("kind", ["record", "weather"])
def test_a_journal_of_a_newer_schema_is_refused_with_advice(store, kind):
    add_line(store, sealed(b'{"event":"%s","schema":99}' % kind.encode()))
    with pytest.raises(UsageError, match=r"newer attnbench \(schema 99, here 1\): upgrade it"):
        store.records()


def test_a_plan_of_a_newer_schema_is_refused_with_advice(store):
    (store.path / "plan.json").write_bytes(sealed(b'{"event":"plan","schema":3,"run":7}'))
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

    monkeypatch.setattr(
        lines,
        "UPGRADES",
        {("record", -2): rename_result, ("record", -1): split_status, ("record", 0): to_current},
    )
    old = msgspec.to_builtins(make_record(0))
    old = {key: value for key, value in old.items() if key != "outcome"} | {"schema": -2, "result": "timeout"}
    add_line(store, sealed(msgspec.json.encode(old)))
    (record,) = store.records()
    assert record == replace(make_record(0), outcome=Outcome(status="timeout"), seconds=2.5)


def test_a_schema_that_was_never_published_is_a_broken_line(store):
    add_line(store, sealed(b'{"event":"record","schema":0}'))
    (broken,) = verify(store.path).broken
    assert broken.why == "its schema 0 was never published"


def test_a_line_with_a_right_checksum_that_is_no_record_is_broken_and_the_reason_names_the_field(store):
    event = msgspec.json.encode({**msgspec.to_builtins(make_record(0)), "started_s": "noon"})
    add_line(store, sealed(event))
    (broken,) = verify(store.path).broken
    assert "started_s" in broken.why


def test_records_read_back_equal_whether_planned_retried_or_not_planned(store):
    written = [make_record(1), make_record(2, attempt=2), make_record(9)]
    store.append(*written)
    assert list(store.history()) == written


MISLEADING = {"outcome": 1, "job": 2, "round": 3, 'a","outcome":{': ',"round":4}', ',"job":{': "x"}


@settings(deadline=None)  # each example writes to the disk
@given(
    jobs=st.lists(
        st.builds(
            lambda number, options, place, attempt, target: replace(
                make_job(number, attempt=attempt),
                case=replace(make_job(number).case, options=options),
                round=place,
                target=target,
            ),
            st.integers(0, 1),
            st.sampled_from([{}, {"round": 3}, MISLEADING]),
            st.sampled_from([1, 2, 12]),
            st.sampled_from([1, 2, 7]),
            st.sampled_from(["m:V", 'm","round":2}']),
        ),
        unique_by=repr,
        max_size=12,
    ),
    run=st.sampled_from([RUN, 'odd","job":{']),
)
def test_a_job_and_its_record_read_back_equal_even_where_their_text_looks_like_the_format(jobs, run, tmp_path_factory):
    written = [replace(make_record(0), job=job, run=(run, RUN)[place % 3 > 1]) for place, job in enumerate(jobs)]
    with Store.create(
        tmp_path_factory.mktemp("runs"), make_plan(0).with_jobs(tuple(jobs), sources=(run, RUN))
    ) as store:
        store.append(*written)
        assert list(store.history()) == written
    with Store.open(store.path, write=False) as again:
        assert list(again.plan.jobs) == jobs
        assert list(again.history()) == written


def test_a_plan_stores_a_job_once_however_many_rounds_it_has(tmp_path):
    jobs = [replace(make_job(number), round=place) for place in (1, 2, 10) for number in (0, 1, 2)]
    several = [*jobs, replace(jobs[2], attempt=2), jobs[1], jobs[0]]
    Store.create(tmp_path, make_plan(0).with_jobs(several)).close()
    written = json.loads((tmp_path / RUN / "plan.json").read_bytes())["event"]
    assert written["questions"] == msgspec.to_builtins([*jobs[:3], replace(jobs[2], attempt=2)])
    assert written["order"] == [[1, [0, 1, 2]], [2, [0, 1, 2]], [10, [0, 1, 2]], [1, [3, 1, 0]]]
    assert list(Store.open(tmp_path / RUN, write=False).plan.jobs) == several


def test_a_plan_given_other_jobs_has_those_even_after_its_own_were_read():
    plan = make_plan(2)
    assert plan.jobs == (make_job(0), make_job(1))
    longer = plan.with_jobs((*plan.jobs, make_job(2)), refine=3)
    assert (longer.jobs, longer.refine) == ((make_job(0), make_job(1), make_job(2)), 3)
    assert longer == replace(make_plan(3), refine=3)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"order": [[1, [0, 2]]]}, "its order refers to questions that it does not hold"),
        ({"order": [[1, [1]], [2, [1, -1]]]}, "its order refers to questions that it does not hold"),
        ({"order": [[1, ["0"]]]}, "Expected `int`, got `str`"),
        ({"order": [[1]]}, "Expected `array` of length 2"),
        ({"order": [[0, [0, 1]]]}, "its order names rounds that cannot exist"),
        ({"order": [[-3, [0, 1]]]}, "its order names rounds that cannot exist"),
        ({"order": [[2**63, [0, 1]]]}, "its order names rounds that cannot exist"),
        ({"questions": [msgspec.to_builtins(replace(make_job(number), round=2)) for number in (0, 1)]}, "first round"),
    ],
)
def test_a_plan_that_no_version_writes_is_damaged_and_the_error_says_why(tmp_path, changes, why):
    Store.create(tmp_path, make_plan(2)).close()
    plan = tmp_path / RUN / "plan.json"
    event = json.loads(plan.read_bytes())["event"]
    plan.write_bytes(sealed(msgspec.json.encode(event | changes)))
    with pytest.raises(DamagedStore, match=why):
        Store.open(tmp_path / RUN, write=False)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([1, 2, 3, 12]), st.sampled_from([1, 2])), max_size=24))
def test_a_plan_has_the_jobs_given_in_their_order_whatever_they_are(each):
    jobs = tuple(replace(make_job(number), round=place, attempt=attempt) for number, place, attempt in each)
    plan = make_plan(0).with_jobs(jobs)
    assert plan.jobs == lines.from_line(lines.to_line(plan)).jobs == jobs
    assert plan == make_plan(0).with_jobs(plan.jobs)


def test_after_a_plan_is_replaced_every_record_is_read_and_rows_are_those_of_the_new_plan(store):
    store.append(make_record(0), make_record(2))
    assert list(store.history()) == [make_record(0), make_record(2)]
    store.replan(store.plan.with_jobs([make_job(2), make_job(7)]))
    store.append(make_record(7))
    assert list(store.history()) == [make_record(0), make_record(2), make_record(7)]
    found = rows(store.history(), store.plan.jobs, run=RUN)
    assert [(row.case, row.rounds) for row in found] == [(make_job(2).case, 1), (make_job(7).case, 1)]


@pytest.mark.parametrize("order", [[3, 2, 1, 0], [2, 3, 0, 1], [1, 1, 0, 3, 3], [0, 2, 3], [3]])
def test_records_read_back_equal_in_whatever_order_the_jobs_were_measured(tmp_path, order):
    jobs = [replace(make_job(number), round=place) for place in (1, 2) for number in (0, 1)]
    written = [replace(make_record(0), job=jobs[place], seconds=float(place)) for place in order]
    with Store.create(tmp_path, make_plan(0).with_jobs(jobs)) as store:
        store.append(*written)
        assert list(store.history()) == written


def test_a_line_with_a_right_checksum_and_an_invalid_outcome_is_skipped_and_the_record_before_it_counts(store):
    store.append(make_record(0))
    event = msgspec.to_builtins(make_record(0)) | {"outcome": {"status": "splendid"}}
    add_line(store, sealed(msgspec.json.encode(event)))
    assert list(store.history()) == store.records() == [make_record(0)]
    (broken,) = verify(store.path).broken
    assert "outcome.status" in broken.why


@pytest.mark.parametrize("told", [b'"backend":"', b'"run":"'])
def test_a_line_with_a_right_checksum_that_is_not_utf8_is_skipped_and_verify_lists_it(store, told):
    outcome = Outcome(status="ok", backend="kernel")
    store.append(make_record(0))
    event = msgspec.json.encode(replace(make_record(1), outcome=outcome))
    assert told in event
    add_line(store, sealed(event.replace(told, told + b"\xff")))
    assert list(store.history()) == [make_record(0)]
    (broken,) = verify(store.path).broken
    assert "utf-8" in broken.why


def test_a_line_with_a_right_checksum_and_an_invalid_job_is_broken_and_the_reason_names_the_field(store):
    event = msgspec.to_builtins(make_record(0))
    event["job"]["case"]["shape"]["heads"] = "eight"
    add_line(store, sealed(msgspec.json.encode(event)))
    (broken,) = verify(store.path).broken
    assert "job.case.shape.heads" in broken.why


# Schema 1 loads for ever: its files stay as they are, and so do the keys by which resuming knows a job.

GOLDEN = Path(__file__).parents[2] / "golden" / "journal-v1" / "20260101-000000-v2v2"
GOLDEN_STATUSES = {
    "76dfabc37908d0a3": "ok",
    "5af01ede007429e9": "ok",
    "818811673b9891b7": "unsupported",
    "6208a39595f630f2": "interrupted",
    "3e97974328f7b76e": "ok",
    "1ef14514cc37901c": None,
}


def test_a_plan_of_schema_1_loads_and_its_jobs_keep_their_keys():
    run = Store.open(GOLDEN, write=False)
    assert [job.key for job in run.plan.jobs] == list(GOLDEN_STATUSES)
    assert (run.plan.run, run.plan.created_s) == (GOLDEN.name, 1767225600.25)
    assert run.plan.jobs[1].case.options == {
        "rounds": 4, "bucket": 64, "share": True, "rate": 0.5, "name": "a", "none": None,
    }  # fmt: skip


@pytest.mark.parametrize("jobs", [{}, {"jobs": None}, {"jobs": [{"case": {}}]}])
def test_a_plan_of_schema_1_without_its_jobs_is_damaged(store, jobs):
    event = msgspec.to_builtins(store.plan) | {"schema": 1} | jobs
    (store.path / "plan.json").write_bytes(sealed(msgspec.json.encode(event)))
    with pytest.raises(DamagedStore, match="is damaged: it is no event"):
        Store.open(store.path, write=False)


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


def test_this_version_still_writes_records_of_schema_1_byte_for_byte():
    journal = (GOLDEN / "events.jsonl").read_bytes().splitlines(keepends=True)
    written = [lines.to_line(record) for record in read_journal(GOLDEN).records[:-1]]
    assert written == [journal[index] for index in (1, 2, 4, 5, 6)]


def test_a_plan_of_schema_1_is_upgraded_to_schema_2_byte_for_byte():
    today = lines.to_line(Store.open(GOLDEN, write=False).plan)
    assert today == (GOLDEN.parents[1] / "plan-v2.json").read_bytes()
    assert lines.from_line(today) == Store.open(GOLDEN, write=False).plan
