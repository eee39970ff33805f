"""The energy probe: joules per call by the GPU's own counter, over windows long enough for it; never estimated."""

import contextlib
import time
from collections.abc import Callable, Iterator
from statistics import mean

import torch
from msgspec import Struct

from attnbench.contracts.case import Option
from attnbench.contracts.record import Job, Measurement, Outcome
from attnbench.contracts.variant import Unsupported
from attnbench.measure.clocks import Clocks, all_invalid
from attnbench.measure.nvml import Gpu
from attnbench.measure.sampling import Verdict
from attnbench.measure.workload import Workload

_WINDOW_S = 5.0  # the counter is updated in steps of an undocumented length
_WINDOWS, _WINDOWS_QUICK = 3, 1
_WARM_S = 1.0
_BATCH_S = 0.05  # of calls queued between two synchronisations


class Window(Struct, frozen=True, kw_only=True):
    """Calls without a pause between two readings of the counter, with the verdict of the device's clock."""

    joules: float
    seconds: float
    calls: int
    verdict: Verdict


def measure(job: Job, report: Callable[[str], None]) -> Outcome:
    """Measure joules per call: the energy of the whole board, idle power included, over the number of calls.

    Raises Unsupported where the counter cannot be read, or stands still.
    """
    kind = job.case.device.partition(":")[0]
    if kind != "cuda":
        raise Unsupported(f"energy is read from the counter of an NVIDIA GPU; for {kind} there is none that is read")
    gpu = Gpu(job.case.device)
    if gpu.energy_j is None:
        raise Unsupported(f"the energy counter cannot be read: {gpu.unread['energy_j']}")
    workload, clocks = Workload.of(job), Clocks(gpu)
    with contextlib.nullcontext() if workload.differentiates else torch.no_grad():
        windows = list(_windows(job, workload, clocks, report))
    workload.judge()
    facts = _facts(windows) | clocks.facts()
    valid = [window for window in windows if window.verdict != "invalid"]
    if not valid:
        return Outcome(status="error", detail=all_invalid(facts), backend=workload.backend, facts=facts)
    energy = Measurement(
        metric="energy",
        unit="J",
        values=tuple(window.joules / window.calls for window in valid),
        flags=tuple(_flags(valid, facts)),
    )
    return Outcome(status="ok", measurements=(energy,), backend=workload.backend, facts=facts)


def _windows(job: Job, workload: Workload, clocks: Clocks, report: Callable[[str], None]) -> Iterator[Window]:
    """Warm up, then measure one window after another, reporting progress at each.

    There is no second window where a call exceeds the protocol's cap.
    """
    batch = _warm_up(workload, job.case.device)
    clocks.judge()
    count = _WINDOWS_QUICK if job.protocol.profile == "quick" else _WINDOWS
    for number in range(1, count + 1):
        report(f"window {number} of {count}")
        window = _window(workload, clocks, batch=batch)
        yield window
        if window.seconds > job.protocol.cap_s * window.calls:
            break


def _warm_up(workload: Workload, device: str) -> int:
    """Call once, then for a second in growing batches; return how many calls take at least 50 ms."""
    for call in workload.calls(1):  # the first call may compile
        call()
    torch.cuda.synchronize(device)
    batch, began = 1, time.perf_counter()
    while (started := time.perf_counter()) - began < _WARM_S:
        for call in workload.calls(batch):
            call()
        torch.cuda.synchronize(device)
        if time.perf_counter() - started < _BATCH_S:
            batch *= 2
    return batch


def _window(workload: Workload, clocks: Clocks, *, batch: int) -> Window:
    """Keep the device busy for one window: one or two batches are queued at any time."""
    device, ends = clocks.gpu.device, (torch.cuda.Event(), torch.cuda.Event())
    torch.cuda.synchronize(device)
    began, before, batches = time.perf_counter(), clocks.gpu.energy_j, 0
    while time.perf_counter() - began < _WINDOW_S:
        for call in workload.calls(batch):
            call()
        ends[batches % 2].record()
        batches += 1
        if batches > 1:
            ends[batches % 2].synchronize()  # the end of the batch before
    torch.cuda.synchronize(device)
    after, seconds = clocks.gpu.energy_j, time.perf_counter() - began
    if before is None or after is None or after <= before:
        why = clocks.gpu.unread.get("energy_j", f"it stood still for {seconds:.0f} s of work")
        raise Unsupported(f"the energy counter cannot be relied on: {why}")
    return Window(joules=after - before, seconds=seconds, calls=batches * batch, verdict=clocks.judge())


def _flags(valid: list[Window], facts: dict[str, Option]) -> Iterator[str]:
    if any(window.verdict == "slow" for window in valid):
        yield "throttled"
    if facts["other_processes"]:
        yield "shared_device"


def _facts(windows: list[Window]) -> dict[str, Option]:
    return {
        "average_power_w": round(mean(window.joules / window.seconds for window in windows), 1),
        "window_s": round(mean(window.seconds for window in windows), 3),
        "window_calls": round(mean(window.calls for window in windows)),
        "invalid_blocks": sum(window.verdict == "invalid" for window in windows),
    }
