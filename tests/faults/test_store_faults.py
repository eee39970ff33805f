"""Faults of disks, processes and clocks, planted for real: what was acknowledged stays, and nothing is invented."""

import itertools
import os
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from attnbench.errors import DamagedStore, NotStored, UsageError
from attnbench.record import Measurement
from attnbench.store import Store, find_run, list_runs, verify
from attnbench.store.lines import read_journal, read_plan, to_line
from stored_runs import ENVIRONMENT, RUN, make_plan, make_record, number_of

ROOT = Path(__file__).parents[2]
CHILD_PATHS = os.pathsep.join([str(ROOT / "harness"), str(ROOT / "tests")])
NOBODY = 65534


@pytest.fixture
def store(tmp_path):
    with Store.create(tmp_path / "results", make_plan(4)) as created:
        yield created


@pytest.fixture
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def start_child(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": CHILD_PATHS}
    )


def numbers(store):
    return [number_of(record) for record in store.records()]


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
            assert len(read_journal(store.path).broken) == (cut > 0 and cut not in ends_of_whole(whole))


def line_ends(data):
    return [index + 1 for index, byte in enumerate(data) if byte == ord("\n")]


def ends_of_whole(data):
    return {place for end in line_ends(data) for place in (end - 1, end)}


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


# A system that writes little at a time, or not at all.


@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=20))
@settings(max_examples=25, deadline=None)
def test_writes_that_are_short_are_continued_to_the_end_of_the_line(sizes, tmp_path_factory):
    real, calls = os.write, itertools.cycle(sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        patch.setattr("os.write", lambda descriptor, data: real(descriptor, data[: next(calls)]))
        with Store.create(tmp_path_factory.mktemp("short"), make_plan(1)) as store:
            store.append(make_record(0))
    assert Store.open(store.path, write=False).plan == make_plan(1)
    assert store.records() == [make_record(0)]
    assert verify(store.path).sound


def test_a_full_disk_is_told_with_the_way_to_resume(tmp_path):
    store = Store.create(tmp_path, make_plan(2))
    store.append(make_record(0))
    store.close()
    events = store.path / "events.jsonl"
    acknowledged = events.read_bytes()
    events.unlink()
    events.symlink_to("/dev/full")
    no_space = pytest.raises(NotStored, match=rf"No space left on device.*--resume {RUN}")
    with Store.open(store.path, write=True) as full, no_space:
        full.append(make_record(1))
    events.unlink()
    events.write_bytes(acknowledged)
    with Store.open(store.path, write=True) as resumed:
        assert [job.case.shape.seq_q for job in resumed.pending()] == [2]


FILL = """
import resource, sys
from pathlib import Path
from attnbench.errors import NotStored
from attnbench.store import Store
from stored_runs import make_record
with Store.open(Path(sys.argv[1]), write=True) as store:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
    for number in range(100):
        try:
            store.append(make_record(number))
        except NotStored:
            break
    print(number)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    store.append(make_record(99))
"""


@pytest.mark.parametrize("limit", [1, 1500, 4000])
def test_a_disk_that_fills_within_a_line_costs_that_line_alone(store, limit):
    store.close()
    out, _ = start_child(FILL, store.path, limit).communicate(timeout=60)
    acknowledged = int(out)
    assert acknowledged < 99
    assert numbers(store) == [*range(acknowledged), 99]
    assert (store.path / "events.jsonl").stat().st_size > limit
    assert len(verify(store.path).broken) == 1


def test_a_failing_disk_never_acknowledges(store, monkeypatch):
    def fail(descriptor):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        with pytest.raises(NotStored, match="Input/output error"):
            store.append(make_record(0))
    store.append(make_record(1))
    assert 1 in numbers(store)
    assert verify(store.path).sound


# Folders that cannot be written.


@contextmanager
def forbidden(folder, *, mode=0o555):
    """Take rights to a folder away, and root's privilege of needing none."""
    before = folder.stat().st_mode
    was_root = os.geteuid() == 0
    folder.chmod(mode)
    if was_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if was_root:
            os.seteuid(0)
        folder.chmod(before)


@pytest.fixture
def open_folder():
    """A folder below which an ordinary user may look around, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_run_in_a_read_only_folder_can_be_read_verified_and_listed_but_not_written(open_folder):
    with Store.create(open_folder, make_plan(2)) as store:
        store.append(make_record(0))
        with (store.path / "events.jsonl").open("ab") as journal:
            journal.write(b"torn\n")
    (store.path / ".lock").unlink()
    with forbidden(store.path):
        assert numbers(Store.open(store.path, write=False)) == [0]
        report = verify(store.path)
        assert (len(report.broken), report.quarantine) == (1, "")
        assert list_runs(open_folder)[0].done == 1
        with pytest.raises(UsageError, match=r"cannot be written \(Permission denied\)"):
            Store.open(store.path, write=True)
        assert {file.name for file in store.path.iterdir()} == {"plan.json", "events.jsonl"}


def test_a_read_only_out_folder_is_a_usage_error_that_leaves_nothing_behind(open_folder):
    for out in (open_folder, open_folder / "deeper" / "results"):
        refused = pytest.raises(UsageError, match=r"--out: .* cannot be written \(Permission denied\)")
        with forbidden(open_folder), refused:
            Store.create(out, make_plan(1))
        assert list(open_folder.iterdir()) == []


def test_a_file_in_the_place_of_the_out_folder_is_a_usage_error(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere"), tmp_path / ("n" * 300)):
        with pytest.raises(UsageError, match=r"--out: .* cannot be written"):
            Store.create(out, make_plan(1))
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("existing", [True, False])
def test_a_disk_that_fills_while_a_run_is_created_leaves_nothing_behind(tmp_path, monkeypatch, existing):
    out = tmp_path / "deep" / "results"
    if existing:
        out.mkdir(parents=True)
    real = os.write

    def fill(descriptor, data):
        if len(data) < 100:
            raise OSError(28, "No space left on device")
        return real(descriptor, data[:100])

    monkeypatch.setattr("os.write", fill)
    with pytest.raises(UsageError, match="No space left on device"):
        Store.create(out, make_plan(1))
    assert list(tmp_path.rglob("*")) == ([out.parent, out] if existing else [])


def test_a_full_disk_keeps_verify_from_copying_but_not_from_reporting(store, monkeypatch):
    with (store.path / "events.jsonl").open("ab") as journal:
        journal.write(b"torn\n")
    before = sorted(store.path.iterdir())

    def full(descriptor, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", full)
    report = verify(store.path)
    assert (len(report.broken), report.quarantine) == (1, "")
    assert sorted(store.path.iterdir()) == before


def test_a_folder_that_cannot_be_listed_is_a_usage_error(open_folder):
    with forbidden(open_folder, mode=0o000):
        for ask in (list_runs, lambda out: find_run("latest", out)):
            with pytest.raises(UsageError, match=r"--out: .* cannot be read \(Permission denied\)"):
                ask(open_folder)


# Processes that are killed, or meet.

APPEND = """
import os, sys, time
from pathlib import Path
from attnbench.store import Store
from stored_runs import make_record, number_of
real, size = os.write, int(sys.argv[2])
def slow(descriptor, data):
    time.sleep(0.0002)
    return real(descriptor, data[:size])
os.write = slow
with Store.open(Path(sys.argv[1]), write=True) as store:
    print("ready", flush=True)
    for job in store.pending():
        number = job.case.shape.seq_q - 1
        store.append(make_record(number))
        print(number, flush=True)
"""


def test_records_acknowledged_before_a_kill_at_any_instant_are_all_there(tmp_path):
    with Store.create(tmp_path, make_plan(3000)) as store:
        pass
    acknowledged, instants = [], random.Random(7)
    for size in (10, 40, 100, 300, 10_000, 10_000):
        child = start_child(APPEND, store.path, size)
        assert child.stdout.readline() == "ready\n"
        time.sleep(instants.uniform(0.01, 0.15))
        child.kill()
        acknowledged += [int(line) for line in child.communicate()[0].split()]
        found = numbers(store)
        assert found == list(range(len(found)))
        assert set(acknowledged) <= set(found)
    report = verify(store.path)
    assert report.broken
    assert (report.statuses, report.duplicates, report.orphans) == ({"ok": len(found)}, 0, 0)
    assert len(acknowledged) > 10


HOLD = """
import sys
from pathlib import Path
from attnbench.store import Store
with Store.open(Path(sys.argv[1]), write=True):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_refused_until_the_first_has_ended_and_readers_never_are(store):
    store.append(make_record(0))
    store.close()
    child = start_child(HOLD, store.path)
    assert child.stdout.readline() == "held\n"
    with pytest.raises(UsageError, match=rf"{RUN} is being written by another process"):
        Store.open(store.path, write=True)
    assert numbers(Store.open(store.path, write=False)) == [0]
    child.kill()
    child.communicate()
    Store.open(store.path, write=True).close()


def test_a_run_just_created_is_held_by_its_writer(store):
    with pytest.raises(UsageError, match="being written"):
        Store.open(store.path, write=True)
    store.close()
    Store.open(store.path, write=True).close()


def test_runs_created_at_once_under_one_id_get_a_folder_each(tmp_path):
    out, plan = tmp_path / "new" / "results", make_plan(2)

    def measure(number):
        with Store.create(out, plan) as store:
            store.append(replace(make_record(number), run=store.plan.run))
            return store

    with ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(measure, range(16)))
    assert len({store.path for store in stores}) == 16
    assert [numbers(store) for store in stores] == [[number] for number in range(16)]
    assert len(list_runs(out)) == 16


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


def test_an_environment_that_changed_is_told_apart_by_its_key(store):
    changed = replace(ENVIRONMENT, torch="2.14.0")
    store.append(changed)
    assert store.plan.environment.key != changed.key
    assert store.environments()[changed.key].torch == "2.14.0"
