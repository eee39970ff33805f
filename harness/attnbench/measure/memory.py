"""The memory probe: the peak above its inputs that one call of a mechanism takes, in a process of its own."""

import contextlib
import ctypes
from collections.abc import Callable
from pathlib import Path

import torch
from msgspec import Struct

from attnbench.measure.workload import Call, Workload
from attnbench.record import Job, Measurement, Outcome

_GAP_LEAST_BYTES, _GAP_SHARE = 4_000_000, 0.1


class Peak(Struct, frozen=True, kw_only=True):
    """Peak bytes of one call: by the allocator's own count, and by what the operating system or driver saw."""

    allocated: int
    resident: int | None


def measure(job: Job, tell: Callable[[str], None]) -> Outcome:
    """Measure the first call (which may build what later ones reuse) and the steady state, above the inputs."""
    del tell  # a memory job is two calls
    workload = Workload.of(job)
    allocator_peak(lambda: None)  # the profiler's own buffers are there before anything is measured
    peak_of = _cuda_peak if job.case.device.startswith("cuda") else _cpu_peak
    with contextlib.nullcontext() if workload.differentiates else torch.no_grad():
        first = peak_of(_next(workload))
        steady = peak_of(_next(workload))
    workload.judge()
    found = [
        Measurement(metric="memory", unit="bytes", values=(steady.allocated,), flags=_flags(steady)),
        Measurement(metric="memory_first_call", unit="bytes", values=(first.allocated,)),
    ]
    if steady.resident is not None:
        found.append(Measurement(metric="memory_resident", unit="bytes", values=(steady.resident,)))
    return Outcome(status="ok", measurements=tuple(found), backend=workload.backend)


def allocator_peak(call: Call) -> int:
    """Give the peak of the CPU allocator during a call, from the profiler's allocation events: exact to the byte."""
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], profile_memory=True) as profile:
        call()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def _next(workload: Workload) -> Call:
    (call,) = workload.calls(1)
    return call


def _cpu_peak(call: Call) -> Peak:
    before = _reset_resident_peak()
    allocated = allocator_peak(call)
    return Peak(allocated=allocated, resident=None if before is None else max(0, _resident_bytes("VmHWM") - before))


def _cuda_peak(call: Call) -> Peak:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    call()
    torch.cuda.synchronize()
    return Peak(
        allocated=torch.cuda.max_memory_allocated() - before,
        resident=max(0, torch.cuda.max_memory_reserved() - reserved),
    )


def _flags(steady: Peak) -> tuple[str, ...]:
    """Flag memory that the allocator did not see: numpy's, another thread's, a kernel's own.

    Of the steady state, for a first call also loads code.
    """
    unseen = (steady.resident or 0) - steady.allocated
    return ("unseen_memory",) if unseen > max(_GAP_LEAST_BYTES, _GAP_SHARE * steady.allocated) else ()


def _reset_resident_peak() -> int | None:
    """Set the resident peak back to what is resident now, and give that; None where Linux's /proc is missing."""
    with contextlib.suppress(AttributeError):  # glibc's: what earlier calls freed goes back, or it would hide this one
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _resident_bytes("VmRSS")
    except OSError:
        return None


def _resident_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")
