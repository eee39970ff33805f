"""Processes that are killed while they write, or meet in one run or one folder."""

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from msgspec.structs import replace

from attnbench.contracts.errors import UsageError
from attnbench.store import Store, list_runs, verify
from stored_runs import RUN, make_plan, make_record, numbers, start_child


@pytest.fixture
def store(tmp_path):
    with Store.create(tmp_path / "results", make_plan(4)) as created:
        yield created


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
    assert report.sound
    assert (report.statuses, report.duplicates, report.orphans) == ({"ok": len(found)}, 0, 0)
    assert acknowledged


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


def test_a_new_run_is_locked_by_its_writer(store):
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
