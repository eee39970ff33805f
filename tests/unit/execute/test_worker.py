"""The child's work around a probe: its device, its threads, and an answer that can always be written."""

import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import torch
from msgspec.structs import replace

from attnbench.contracts.case import Passes
from attnbench.contracts.record import Job, Outcome
from attnbench.execute import worker
from attnbench.execute.executor import Finished
from attnbench.execute.local import FORKS, LocalExecutor
from helpers.planted import job


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    devices: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_device", devices.append)
    return devices


def planned_on(device: str) -> Job:
    planned = job()
    return replace(planned, case=replace(planned.case, device=device))


def test_a_cuda_job_runs_with_its_device_chosen(monkeypatch: pytest.MonkeyPatch, chosen: list[str]) -> None:
    def probe(planned: Job, tell: object) -> Outcome:
        return Outcome(status="ok", detail=f"on {chosen}")

    monkeypatch.setitem(worker.PROBES, "latency", probe)
    assert worker.perform(planned_on("cuda:1"), lambda _text: None).detail == "on ['cuda:1']"


def test_a_bound_on_memory_is_a_share_of_the_gpu_s_and_none_is_set_unasked(
    monkeypatch: pytest.MonkeyPatch, chosen: list[str]
) -> None:
    shares: list[tuple[float, str]] = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: SimpleNamespace(total_memory=80 << 30))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *given: shares.append(given))
    monkeypatch.setitem(worker.PROBES, "latency", lambda _job, _tell: Outcome(status="ok"))
    for memory_bytes in (None, 20 << 30, 160 << 30):
        assert worker.perform(planned_on("cuda:1"), lambda _text: None, memory_bytes=memory_bytes).status == "ok"
    assert (shares, chosen[0]) == ([(0.25, "cuda:1"), (1.0, "cuda:1")], "cuda:1")


def test_a_variant_is_tried_with_its_device_chosen(chosen: list[str]) -> None:
    assert worker._try("planted:missing", planned_on("cuda:1").case)
    assert chosen == ["cuda:1"]


def test_no_cuda_device_is_chosen_for_the_cpu(chosen: list[str]) -> None:
    worker._try("planted:missing", planned_on("cpu").case)
    assert chosen == []


def test_the_log_of_a_failure_can_be_written_whatever_its_message_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    def probe(planned: Job, tell: object) -> Outcome:
        raise ValueError("half a character: \udcff")

    monkeypatch.setitem(worker.PROBES, "latency", probe)
    outcome = worker.perform(planned_on("cuda:1"), lambda _text: None)
    assert msgspec.json.encode(outcome)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in Linux's /proc")
def test_all_threads_are_started_before_memory_is_bounded() -> None:
    code = (
        "import os\nfrom attnbench.execute import worker\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "worker._warm_threads(5)\n"
        "print(len(os.listdir('/proc/self/task')) - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(Path(worker.__file__).parents[2])},
    )
    assert int(done.stdout) >= 4


PLUGIN = Path(__file__).parents[2] / "plugins" / "imports.py"


def told(executor: LocalExecutor, name: str, passes: Passes) -> str:
    planned = replace(job(), target=f"{PLUGIN}:{name}")
    small = replace(planned.case.shape, seq_q=16, seq_k=16)
    planned = replace(planned, case=replace(planned.case, passes=passes, shape=small))
    (ended,) = [event for event in executor.run([planned]) if isinstance(event, Finished)]
    return ended.outcome.detail.partition(": ")[2]


@pytest.mark.parametrize("spawn", [False, True])
@pytest.mark.parametrize("passes", ["forward", "backward", "forward-backward"])
def test_a_first_call_imports_nothing_of_torch_s(passes: Passes, spawn: bool) -> None:
    with closing(LocalExecutor(spawn=spawn)) as executor:
        assert told(executor, "Imported", passes) == "imported: ."


@pytest.mark.skipif(not FORKS, reason="without a fork nothing is inherited")
def test_what_gradients_need_is_imported_once_for_all_children_and_not_before_one_needs_it() -> None:
    with closing(LocalExecutor()) as executor:
        passes: tuple[Passes, ...] = ("forward", "backward", "forward-backward", "forward")
        counts = [int(told(executor, "Inherited", each).rpartition(" ")[2]) for each in passes]
    assert counts[0] + 10_000 < counts[1] == pytest.approx(counts[2], abs=100) == pytest.approx(counts[3], abs=100)


def test_what_is_imported_for_gradients_starts_no_thread_and_is_all_that_a_first_one_imports() -> None:
    code = (
        "import sys\nfrom attnbench.execute import forking, worker\n"
        "forking.load_for_gradients()\n"
        "known = {*sys.modules}\n"
        "worker._warm_gradients()\n"
        "print(*{*sys.modules} - known)\n"
    )
    environ = {"PYTHONPATH": str(Path(worker.__file__).parents[2]), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ)
    assert done.stdout.strip() == ""
