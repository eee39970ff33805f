"""Bytes that are cut off, flipped, torn or hostile: each costs at most its own line, and nothing is invented."""

import os
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from attnbench.contracts.errors import DamagedStore
from attnbench.contracts.record import Measurement
from attnbench.store import Store, find_run, list_runs, verify
from attnbench.store.lines import to_line
from attnbench.store.reading import read_journal, read_plan
from stored_runs import ENVIRONMENT, RUN, make_plan, make_record, numbers


@pytest.fixture
def store(tmp_path):
    with Store.create(tmp_path / "results", make_plan(4)) as created:
        yield created


@pytest.fixture
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


# A journal cut short.


def test_a_journal_cut_at_any_byte_costs_the_torn_line_alone(store, no_waiting_for_the_disk):
    for number in range(3):
        store.append(make_record(number))
    store.close()
    journal = store.path / "events.jsonl"
    whole = journal.read_bytes()
    for cut in range(len(whole), -1, -1):
        os.truncate(journal, cut)
        with Store.open(store.path, write=True) as resumed:
            resumed.append(make_record(3))
            kept = sum(cut >= end - 1 for end in line_ends(whole))  # a line that lacks its newline alone is whole
            assert numbers(resumed) == [*range(kept), 3], f"cut at {cut}"
            journal_now = read_journal(store.path)
            assert (journal_now.torn, journal_now.broken) == (cut not in {0, *line_ends(whole)}, ())


def line_ends(data):
    return [index + 1 for index, byte in enumerate(data) if byte == ord("\n")]


def test_a_plan_cut_at_any_byte_is_reported_as_damaged(store):
    plan = store.path / "plan.json"
    for cut in range(plan.stat().st_size - 2, -1, -1):
        os.truncate(plan, cut)
        with pytest.raises(DamagedStore, match="is damaged"):
            read_plan(store.path)
    assert [summary.damage != "" for summary in list_runs(store.path.parent)] == [True]
    assert find_run(RUN, store.path.parent) == store.path


# Flipped bits.


def test_a_flipped_bit_at_any_byte_costs_at_most_the_lines_it_touches(store):
    store.append(make_record(0))
    store.append(make_record(1, "error", detail="J*j\nJ*j"))  # letters that are one bit away from a newline
    store.append(make_record(2))
    written = store.records()
    journal = store.path / "events.jsonl"
    whole = journal.read_bytes()
    for place, byte in enumerate(whole):
        least = 1 if byte == ord("\n") and place != len(whole) - 1 else 2
        for bit in range(8):
            with flipped(journal, place, bit):
                found = read_journal(store.path)
            assert len(found.records) >= least
            assert all(record in written for record in found.records)
            assert found.broken


def test_a_flipped_bit_anywhere_in_the_plan_is_noticed(store):
    plan = store.path / "plan.json"
    for place in range(plan.stat().st_size - 1):
        with flipped(plan, place, place % 8), pytest.raises(DamagedStore, match="is damaged"):
            read_plan(store.path)


@contextmanager
def flipped(path, place, bit):
    """Flip one bit of a file in place, and back."""
    with path.open("r+b", buffering=0) as file:
        file.seek(place)
        byte = file.read(1)[0]
        for value in (byte ^ 1 << bit, byte):
            file.seek(place)
            file.write(bytes([value]))
            if value != byte:
                yield


@given(junk=st.binary(max_size=200))
@settings(max_examples=200)
def test_any_junk_between_two_lines_costs_neither(junk, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "junk"
    path.mkdir(exist_ok=True)
    first, last = to_line(make_record(0)), to_line(make_record(1))
    (path / "events.jsonl").write_bytes(first + junk + b"\n" + last)
    assert list(read_journal(path).records) == [make_record(0), make_record(1)]


def test_brackets_nested_beyond_any_parser_are_one_broken_line(store):
    with (store.path / "events.jsonl").open("ab") as journal:
        journal.write(b'{"crc32":"00000000","event":' + b"[" * 100_000 + b"\n")
    store.append(make_record(0))
    assert numbers(store) == [0]
    assert len(verify(store.path).broken) == 1


# Clocks and strings.


def test_a_clock_that_jumps_back_changes_neither_order_nor_what_counts(tmp_path):
    with Store.create(tmp_path, make_plan(2)) as store:
        for attempt, started_s in ((1, 2e9), (2, -5.0)):
            store.append(replace(make_record(0, attempt=attempt), started_s=started_s, seconds=-3600.0))
    with Store.create(tmp_path, make_plan(2, run="20200101-000000-aaaa", created_s=0.0)):
        pass
    assert [(record.job.attempt, record.started_s) for record in store.records()] == [(2, -5.0)]
    assert [summary.run for summary in list_runs(tmp_path)] == ["20200101-000000-aaaa", RUN]


HOSTILE = [
    "nul \0",
    "escape \x1b[31m\x07",
    "line\nbreak\r\u2028\x85",
    '{"crc32":"',
    "\u202e",
    "<script>",
    "=cmd",
    "\\ud800",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_strings_come_back_as_they_were(store, text):
    record = make_record(0, "error", detail=text)
    record = replace(record, outcome=replace(record.outcome, log=text * 3, backend=text, facts={text: text}))
    store.append(record)
    store.append(make_record(1))
    assert store.records() == [record, make_record(1)]


def test_halves_of_surrogate_pairs_are_stored_spelt_out(tmp_path):
    plan = replace(make_plan(1), command=("attnbench", "--out", os.fsdecode(b"r\xe9sultats")))
    with Store.create(tmp_path, plan) as store:
        record = make_record(0, "crash", detail="\ud800 and \udcff")
        store.append(replace(record, outcome=replace(record.outcome, facts={"\udc80": 1})))
    assert store.records()[0].outcome.detail == r"\ud800 and \udcff"
    assert store.records()[0].outcome.facts == {r"\udc80": 1}
    assert Store.open(store.path, write=False).plan.command[2] == r"r\udce9sultats"
    assert verify(store.path).sound


def test_values_that_are_not_finite_are_stored_as_missing(store):
    values = (1.5, float("nan"), float("inf"), -float("inf"))
    measured = Measurement(metric="approximation_error", unit="1", values=values, flags=("non_finite",))
    record = make_record(0)
    store.append(replace(record, outcome=replace(record.outcome, measurements=(measured,))))
    (found,) = store.records()[0].outcome.measurements
    assert (found.values, found.flags) == ((1.5, None, None, None), ("non_finite",))


def test_a_changed_environment_has_another_key(store):
    changed = replace(ENVIRONMENT, torch="2.14.0")
    store.append(changed)
    assert store.plan.environment.key != changed.key
    assert store.environments()[changed.key].torch == "2.14.0"
