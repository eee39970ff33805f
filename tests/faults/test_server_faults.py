"""What happens to the fork server, and to those who asked it, when processes die at bad moments."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from attnbench.contracts.case import Shape
from attnbench.contracts.record import Job, ProbeKind
from attnbench.execute import forkserver
from attnbench.execute.executor import Finished
from attnbench.execute.local import LocalExecutor
from attnbench.execute.processes import descendants
from attnbench.planning.variants import describe_variant
from attnbench.plugins.registry import find
from attnbench.session import Session, quietly
from attnbench.store import Store
from helpers.command import SMALL as SMALL_RUN
from helpers.command import command, environment
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


def server() -> int:
    """Wait for the executor's server, a child of the guard that this process has started; return its process's id."""
    while (
        len(found := [each for guard in running(SERVER, parent=os.getpid()) for each in running(SERVER, parent=guard)])
        != 1
    ):
        time.sleep(0.01)
    return found[0]


def assert_none_left(mark: str) -> None:
    deadline = time.monotonic() + 5
    while running(mark) and time.monotonic() < deadline:  # it may be another test's
        time.sleep(0.02)
    assert not running(mark)


@pytest.fixture
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blame a server for being stopped at the first look, so that tests are quick."""
    monkeypatch.setattr(forkserver, "_STOPPED_LOOKS", 1)


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
    def kill_once_it_has_a_child() -> None:
        while not running(SERVER, parent=server()):
            time.sleep(0.01)
        time.sleep(0.1)
        os.kill(server(), signal.SIGKILL)

    outcomes = []
    with ThreadPoolExecutor() as threads:
        for event in executor.run(iter([planned("HangsSilently"), planned("Good")])):
            if isinstance(event, Finished):
                outcomes.append(event.outcome)
            elif event.job.case.variant == "HangsSilently":
                threads.submit(kill_once_it_has_a_child)
    assert [outcome.status for outcome in outcomes] == ["crash", "ok"]
    assert "server that forks the jobs was ended by SIGKILL" in outcomes[0].detail


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


@pytest.mark.usefixtures("watchful")
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("StopsTheServer", "was stopped by a signal"),
        ("KillsTheServer", "was ended by SIGKILL"),
        pytest.param("KillsTheGuard", "was ended by SIGKILL", marks=pytest.mark.exhaustive),
        pytest.param("StopsBoth", "was stopped by a signal", marks=pytest.mark.exhaustive),
    ],
)
def test_a_job_that_stops_or_kills_what_watches_it_is_a_crash_and_leaves_nothing_behind(
    executor: LocalExecutor, name: str, how: str
) -> None:
    done = [
        event.outcome for event in executor.run(iter([planned(name), planned("Good")])) if isinstance(event, Finished)
    ]
    assert [outcome.status for outcome in done] == ["crash", "ok"]
    assert how in done[0].detail
    assert_none_left("attnbench-grandchild")


@pytest.mark.usefixtures("watchful")
def test_a_server_stopped_between_jobs_costs_no_job(executor: LocalExecutor) -> None:
    outcomes = []
    for event in executor.run(iter([planned("Good"), planned("Good", number=2)])):
        if isinstance(event, Finished):
            outcomes.append(event.outcome.status)
            os.kill(server(), signal.SIGSTOP)
    assert outcomes == ["ok", "ok"]


def test_a_server_killed_as_it_imports_torch_is_replaced(executor: LocalExecutor) -> None:
    executor.close()
    with ThreadPoolExecutor() as threads:
        killing = threads.submit(lambda: os.kill(server(), signal.SIGKILL))
        description = describe_variant(executor, find(f"{FAULTY}:Good", "variants", flag=""))
    assert killing.exception() is None
    assert not description.failure


def test_what_a_training_leaves_behind_ends_with_it_though_another_one_runs(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    (tmp_path / "hangs.py").write_text("import time; time.sleep(3600)")
    (tmp_path / "leaves.py").write_text(
        "import subprocess, sys\n"
        "words = [sys.executable, '-c', 'import time; time.sleep(3600)', 'attnbench-left']\n"
        "subprocess.Popen(words, start_new_session=True)\n"
    )
    hangs, leaves = (
        replace(one, probe=replace(one.probe, kind="accuracy"), task_target=f"{tmp_path / file}:Task")
        for one, file in ((planned("Good"), "hangs.py"), (planned("Raises"), "leaves.py"))
    )
    ended = next(event for event in executor.run(iter([hangs, leaves])) if isinstance(event, Finished))
    assert "leaves.py has no 'Task'" in ended.outcome.detail
    assert running(SERVER, parent=server())
    assert_none_left("attnbench-left")
    executor.close()


def test_a_parent_that_is_killed_leaves_nothing_behind_even_while_torch_is_imported(tmp_path: Path) -> None:
    code = "from attnbench.execute.forkserver import ForkServer; ForkServer({})"
    parent = subprocess.Popen([sys.executable, "-c", code, "attnbench-parent"], cwd=tmp_path)
    while len(running(SERVER, folder=tmp_path)) < 2:
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    killed = time.monotonic()
    while running(SERVER, folder=tmp_path) and time.monotonic() - killed < 5:
        time.sleep(0.01)
    assert not running(SERVER, folder=tmp_path)
    assert time.monotonic() - killed < 2  # an import of torch takes longer, and must not be waited for


@pytest.mark.exhaustive
def test_a_tree_stopped_for_longer_than_the_timeout_goes_on(executor: LocalExecutor, tmp_path: Path) -> None:
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import time\nfrom importlib import import_module\n"
        "class Slow:\n    def __init__(self, case):\n        time.sleep(3)\n"
        "    def __call__(self, q, k, v):\n        return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v\n"
    )
    words = command("run", "--variants", "./slow.py:Slow", "--metrics", "memory", "--timeout", "5", *SMALL_RUN)
    with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment()) as run:
        assert run.stderr is not None
        assert run.stderr.readline().startswith("run ")
        while len(running(SERVER, folder=tmp_path)) < 3:  # the guard, the server, and the job's process
            time.sleep(0.05)
        tree = [run.pid, *descendants(run.pid)]
        for pid in tree:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(8)
        for pid in tree:
            os.kill(pid, signal.SIGCONT)
        said = run.stderr.read()
    assert run.returncode == 0
    assert "Slow seq 64 heads 2: 64" in said
