"""The child's work around a probe: its device, its threads, and an answer that can always be written."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import torch
from msgspec.structs import replace

from attnbench.execute import worker
from attnbench.record import Job, Outcome
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
