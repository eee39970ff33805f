"""What happens to the fork server, and to those who asked it, when processes die at bad moments."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from attnbench.contracts.case import Shape
from attnbench.contracts.record import Job, ProbeKind
from attnbench.execute.executor import Finished
from attnbench.execute.local import LocalExecutor
from attnbench.planning.variants import describe_variant
from attnbench.plugins.registry import find
from attnbench.session import Session, quietly
from attnbench.store import Store
from helpers.planted import ENVIRONMENT, job, plan
from helpers.processes import running
from helpers.subtests import as_subtests

FAULTY = Path(__file__).parent.parent / "plugins" / "faulty.py"
SERVER = "attnbench.execute.server"
SMALL = Shape(batch=1, heads=2, kv_heads=2, seq_q=64, seq_k=64, head_dim=16)


@pytest.fixture(scope="module")
def executor() -> Iterator[LocalExecutor]:
    with closing(LocalExecutor(slots=2)) as one:
        yield one


def planned(name: str, *, kind: ProbeKind = "memory", number: int = 1) -> Job:
    base = job(name, kind=kind, number=number)
    return replace(base, case=replace(base.case, shape=SMALL), target=f"{FAULTY}:{name}")


@as_subtests(
    "line, how",
    [
        ("import os; os._exit(3)", "exited with code 3"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("import signal, os; os.kill(os.getpid(), 35)", "signal 35"),
    ],
)
def test_a_plugin_whose_import_ends_its_process_is_described_by_how(
    executor: LocalExecutor, tmp_path: Path, line: str, how: str
) -> None:
    deadly = tmp_path / "deadly.py"
    deadly.write_text(line + "\n")
    found = describe_variant(executor, find(f"{deadly}:Mine", "variants", flag=""))
    assert how in found.failure
    assert not describe_variant(executor, find(f"{FAULTY}:Good", "variants", flag="")).failure


def test_a_server_killed_between_jobs_is_replaced(executor: LocalExecutor) -> None:
    outcomes = []
    for event in executor.run(iter([planned("Good"), planned("Good", number=1)])):
        if isinstance(event, Finished):
            outcomes.append(event.outcome.status)
            for pid in running(SERVER, parent=os.getpid()):
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
    assert outcomes == ["ok", "ok"]


def test_a_server_killed_during_a_job_costs_that_job_alone(executor: LocalExecutor) -> None:
    outcomes = []
    jobs = [planned("HangsSilently"), planned("Good")]
    for event in executor.run(iter(jobs)):
        if isinstance(event, Finished):
            outcomes.append(event.outcome)
        elif not outcomes and event.job.case.variant == "HangsSilently":
            for pid in running(SERVER, parent=os.getpid()):
                os.kill(pid, signal.SIGKILL)
    assert [outcome.status for outcome in outcomes] == ["crash", "ok"]
    assert "server" in outcomes[0].detail


def test_children_that_end_together_are_all_recorded(executor: LocalExecutor) -> None:
    jobs = [replace(planned("OsExits"), attempt=number + 1) for number in range(20)]
    jobs = [replace(one, probe=replace(one.probe, kind="accuracy"), task_target=f"{FAULTY}:Good") for one in jobs]
    done = [event.outcome.status for event in executor.run(iter(jobs)) if isinstance(event, Finished)]
    assert len(done) == 20


def test_a_training_beside_another_says_so_and_one_alone_does_not(executor: LocalExecutor) -> None:
    one, other = (
        replace(job, probe=replace(job.probe, kind="accuracy"), task_target=f"{FAULTY}:Good")
        for job in (planned("OsExits"), planned("Segfaults"))
    )
    for jobs, beside in (([one, other], [1, 1]), ([one], [None]), ([planned("OsExits")], [None])):
        done = [event for event in executor.run(iter(jobs)) if isinstance(event, Finished)]
        assert [event.outcome.facts.get("trained_beside") for event in done] == beside


def test_a_crash_in_one_round_skips_the_case_in_later_rounds(executor: LocalExecutor, tmp_path: Path) -> None:
    jobs = [planned("Segfaults", kind="latency", number=number) for number in (1, 2, 3, 4)]
    with Store.create(tmp_path, plan(jobs)) as store:
        Session(store, executor, quietly, ENVIRONMENT).perform(jobs)
        assert [record.outcome.status for record in store.records()] == ["crash", "skipped", "skipped", "skipped"]
