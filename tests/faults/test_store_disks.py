"""Disks that write little, fill up or fail, and folders that forbid: what was acknowledged stays."""

import itertools
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from attnbench.contracts.errors import NotStored, UsageError
from attnbench.store import Store, find_run, list_runs, verify
from stored_runs import RUN, make_plan, make_record, numbers, start_child

NOBODY = 65534


@pytest.fixture
def store(tmp_path):
    with Store.create(tmp_path / "results", make_plan(4)) as created:
        yield created


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


def no_room(descriptor, data):
    raise OSError(28, "No space left on device")


def test_a_full_disk_is_reported_with_how_to_resume_and_leaves_plan_and_journal_as_they_were(tmp_path, monkeypatch):
    store = Store.create(tmp_path, make_plan(2))
    store.append(make_record(0))
    store.close()
    no_space = pytest.raises(NotStored, match=rf"No space left on device.*--resume {RUN}")
    with Store.open(store.path, write=True) as full, monkeypatch.context() as patch:
        patch.setattr("os.write", no_room)
        with no_space:
            full.append(make_record(1))
        with no_space:
            full.replan(make_plan(3))
        assert not list(store.path.glob(".plan*")), "a temporary file is left"
    with Store.open(store.path, write=True) as resumed:
        assert [job.case.shape.seq_q for job in resumed.pending()] == [2]


FILL = """
import resource, sys
from pathlib import Path
from attnbench.contracts.errors import NotStored
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
    report = verify(store.path)
    assert (report.torn, report.sound) == (1, True), "what was never acknowledged is no damage"


def test_a_failing_disk_never_acknowledges_a_record(store, monkeypatch):
    def fail(descriptor):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        with pytest.raises(NotStored, match="Input/output error"):
            store.append(make_record(0))
    store.append(make_record(1))
    assert 1 in numbers(store)
    assert verify(store.path).sound


# A journal that another program changes while it is written, or that is no file of its own.


@pytest.mark.parametrize(
    "change",
    [
        lambda journal: journal.unlink(),
        lambda journal: Path(shutil.copy(journal, journal.with_suffix(".copy"))).replace(journal),
        lambda journal: os.truncate(journal, 10),
    ],
    ids=["removed", "replaced", "cut"],
)
def test_a_journal_that_was_changed_under_its_run_takes_no_more_records(store, change):
    store.append(make_record(0))
    change(store.path / "events.jsonl")
    with pytest.raises(NotStored, match=rf"events.jsonl was .* while it was written.*--resume {RUN}"):
        store.append(make_record(1))


def test_a_journal_that_is_a_link_or_a_pipe_is_neither_written_through_nor_waited_for(store, tmp_path):
    store.close()
    journal = store.path / "events.jsonl"
    elsewhere = tmp_path / "elsewhere"
    journal.rename(elsewhere)
    journal.symlink_to(elsewhere)
    with pytest.raises(UsageError, match="is a link or no regular file"):
        Store.open(store.path, write=True)
    journal.unlink()
    os.mkfifo(journal)
    with pytest.raises(UsageError, match="is a link or no regular file"):
        Store.open(store.path, write=True)
    (summary,) = list_runs(store.path.parent)
    assert "no regular file" in summary.damage


def test_records_of_another_run_are_left_out_and_the_run_is_not_sound(store, tmp_path):
    store.append(make_record(0))
    with Store.create(tmp_path / "other", replace(make_plan(4), run="20261122-121405-zzzz")) as other:
        other.append(replace(make_record(1), run="20261122-121405-zzzz"))
    shutil.copy(other.path / "events.jsonl", store.path / "events.jsonl")
    assert numbers(Store.open(store.path, write=False)) == []
    assert (verify(store.path).foreign, verify(store.path).sound) == (1, False)


# Folders that cannot be written.


@contextmanager
def forbidden(folder, *, mode=0o555):
    """Remove rights to a folder, and root's privilege of needing none."""
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
