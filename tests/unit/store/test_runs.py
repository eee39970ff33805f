"""The runs of a folder: named, found, listed and verified."""

import msgspec
import pytest

from attnbench.contracts.errors import DamagedStore, UsageError
from attnbench.store import Broken, Store, find_run, list_runs, new_run_id, verify
from attnbench.store.lines import to_line
from stored_runs import CREATED_S, RUN, add_line, make_plan, make_record


@pytest.fixture
def store(tmp_path):
    with Store.create(tmp_path / "results", make_plan(4)) as created:
        yield created


# Runs and their names.


def test_run_ids_sort_by_time_and_are_plain_folder_names():
    ids = [new_run_id(CREATED_S + second) for second in range(0, 10**8, 10**6 + 1)]
    assert ids == sorted(ids)
    assert ids[0][:15] == "20261122-121405"
    assert all(set(run) <= set("0123456789abcdefghijklmnopqrstuvwxyz-") for run in ids)


def test_a_run_whose_id_is_taken_gets_another(store):
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
def test_a_run_is_found_by_its_id_by_a_prefix_of_it_or_as_the_latest(shelf, name):
    assert find_run(name, shelf) == shelf / "20261123-000000-cccc"


def test_a_run_is_found_by_its_path_wherever_it_lies(shelf, tmp_path_factory):
    path = shelf / "20261122-121405-aaaa"
    assert find_run(str(path), tmp_path_factory.mktemp("elsewhere")) == path


def test_the_latest_run_is_the_newest_and_not_the_last_by_name(shelf):
    Store.create(shelf, make_plan(1, run="reference")).close()
    assert find_run("latest", shelf).name == "20261123-000000-cccc"
    assert find_run("ref", shelf).name == "reference"


def test_a_prefix_shared_by_two_runs_is_refused_with_both_names(shelf):
    with pytest.raises(UsageError, match="20261122-121405-aaaa, 20261122-121405-abbb"):
        find_run("20261122", shelf)


def test_an_empty_name_is_no_run_even_where_the_folder_is_one(shelf):
    with pytest.raises(UsageError, match="no run is called ''"):
        find_run("", shelf / "20261122-121405-aaaa")


def test_a_mistyped_run_is_refused_with_the_nearest_name(shelf):
    with pytest.raises(UsageError, match="did you mean 20261122-121405-abbb"):
        find_run("20261122-121405-bbbb", shelf)


@pytest.mark.parametrize("name", ["", "zzz", "../" * 40, "x\0y", "n" * 5000, "\udcff", "README.md", "notes"])
def test_an_unknown_run_is_refused_with_the_newest_names(shelf, name):
    with pytest.raises(UsageError, match="the newest are 20261122-121405-aaaa, 20261122-121405-abbb, 20261123"):
        find_run(name, shelf)


def test_a_run_in_an_empty_or_missing_folder_is_a_usage_error(tmp_path):
    for out in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UsageError, match=r"no run is called 'latest' under .*; there are none"):
            find_run("latest", out)


def test_runs_are_listed_with_their_progress(store):
    store.append(make_record(0))
    store.append(make_record(1, "timeout"))
    store.append(make_record(2, "interrupted"))
    (summary,) = list_runs(store.path.parent)
    assert (summary.run, summary.created_s, summary.planned, summary.done) == (RUN, CREATED_S, 4, 2)
    assert summary.statuses == {"ok": 1, "timeout": 1}
    assert summary.command == ("attnbench", "run", "--seq", "512")


def test_folders_that_are_no_runs_are_not_listed_and_damaged_runs_are_marked(shelf):
    (shelf / "20261122-121405-abbb" / "plan.json").write_bytes(b"not a plan")
    orphaned = shelf / "20261125-000000-eeee"
    orphaned.mkdir()
    (orphaned / "events.jsonl").write_bytes(to_line(make_record(0)))
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


def test_statuses_are_counted_in_a_fixed_order_and_a_job_planned_twice_counts_once(tmp_path):
    plan = make_plan(3)
    with Store.create(tmp_path, plan.with_jobs(plan.jobs * 2)) as store:
        for number, status in enumerate(("timeout", "crash", "error")):
            store.append(make_record(number, status))
    for counted in (verify(store.path), list_runs(tmp_path)[0]):
        assert list(counted.statuses.items()) == [("crash", 1), ("error", 1), ("timeout", 1)]
        assert counted.planned == 3


def test_verify_says_where_a_line_is_broken_and_copies_its_bytes_to_quarantine(store):
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
    kept = msgspec.json.decode((store.path / "quarantine.jsonl").read_bytes(), type=Broken)
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
    (store.path / "plan.json").write_bytes(to_line(make_record(0)))
    with pytest.raises(DamagedStore, match="it holds no plan"):
        Store.open(store.path, write=False)
