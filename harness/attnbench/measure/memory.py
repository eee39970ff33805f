"""The memory probe: the peak above its inputs that one call of a mechanism takes, in a process of its own."""

import contextlib
import ctypes
import gc
import time
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from pathlib import Path

import torch
from msgspec import Struct
from torch.autograd.profiler import profile as autograd_profile  # torch.profiler's own imports the compiler: 1 s

from attnbench.contracts.case import Option
from attnbench.contracts.record import BUILDING, HELD, Job, Measurement, Outcome
from attnbench.measure.nvml import Gpu
from attnbench.measure.workload import Call, Workload

_GAP_SHARE = 0.1
_CPU_GAP_LEAST_BYTES = 4_000_000
_CUDA_GAP_LEAST_BYTES = 64 << 20


class Peak(Struct, frozen=True, kw_only=True):
    """Peak bytes of one call by the allocator's own count, what else counted them, and whether it saw more.

    `facts` hold the counts that could not be had, null, and why.
    """

    allocated: int
    others: dict[str, int] = {}
    unseen: bool = False
    facts: dict[str, Option] = {}


def measure(job: Job, tell: Callable[[str], None]) -> Outcome:
    """Measure the first call (which may build what later ones reuse) and the steady state, above the inputs."""
    del tell  # a memory job is two calls
    peak_of = _cpu_peak
    if job.case.device.startswith("cuda"):
        peak_of = partial(_cuda_peak, Gpu(job.case.device))
    workload, building = _built(job)
    with contextlib.nullcontext() if workload.differentiates else torch.no_grad():
        started = time.perf_counter()
        first = peak_of(_next(workload))
        once = time.perf_counter() - started > job.protocol.cap_s
        steady = first if once else peak_of(_next(workload))
    workload.judge()
    # What was unseen is told of the steady state, for a first call also loads code.
    flags = ("once",) if once else ("unseen_memory",) if steady.unseen else ()
    found = [
        Measurement(metric="memory", unit="bytes", values=(steady.allocated,), flags=flags),
        Measurement(metric="memory_first_call", unit="bytes", values=(first.allocated,)),
    ]
    found += [Measurement(metric=metric, unit="bytes", values=(size,)) for metric, size in steady.others.items()]
    return Outcome(status="ok", measurements=tuple(found), backend=workload.backend, facts=steady.facts | building)


def allocator_peak(call: Call) -> int:
    """Give the peak of the CPU allocator during a call, from the profiler's allocation events: exact to the byte."""
    return max(0, *_held(call))


def _built(job: Job) -> tuple[Workload, dict[str, Option]]:
    """Build the mechanism and draw its inputs; say what that took at most, and what stays.

    (It is what a context needs besides its call. That two calls see different inputs takes two sets.)
    """
    built: list[Workload] = []

    def build() -> None:
        built.append(Workload.of(job, sets=2))

    if job.case.device.startswith("cuda"):
        build()
        device = job.case.device
        peak, held = torch.cuda.max_memory_allocated(device), torch.cuda.memory_allocated(device)
    else:
        course = _held(build)
        peak, held = max(0, *course), course[-1]
    return built[0], {BUILDING: peak, HELD: held}


def _held(call: Call) -> list[int]:
    """Give the course of what the CPU allocator holds of a call's."""
    gc.collect()  # what was left before must not be freed during the call: it would lower the count
    with autograd_profile(use_cpu=True, profile_memory=True) as profile:
        call()
    events = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    ordered = sorted(events, key=lambda event: event.start_ns())
    return list(accumulate((event.nbytes() for event in ordered), initial=0))


def _next(workload: Workload) -> Call:
    (call,) = workload.calls(1)
    return call


def _cpu_peak(call: Call) -> Peak:
    before = _reset_resident_peak()
    allocated = allocator_peak(call)
    if before is None:
        return Peak(allocated=allocated)
    resident = max(0, _resident_bytes("VmHWM") - before)
    unseen = _is_gap(resident - allocated, allocated, least=_CPU_GAP_LEAST_BYTES)
    return Peak(allocated=allocated, others={"memory_resident": resident}, unseen=unseen)


def _cuda_peak(gpu: Gpu, call: Call) -> Peak:
    """Measure by torch's own count, its reserve's growth, and the driver's: what that gave and torch did not take.

    The driver's count is this process's, by NVML; where NVML does not tell it, what the whole device lost stands in for
    it to see what torch did not, but is no figure: other processes have a part in it.
    """
    device = gpu.device
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()  # or the reserve of earlier calls would hide this one's
    torch.cuda.reset_peak_memory_stats(device)
    before, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    given, free = gpu.process_bytes, torch.cuda.mem_get_info(device)[0]
    call()
    torch.cuda.synchronize(device)
    had, lost = gpu.process_bytes, free - torch.cuda.mem_get_info(device)[0]
    own = None if had is None or given is None else had - given
    allocated = torch.cuda.max_memory_allocated(device) - before
    unseen = (lost if own is None else own) - (torch.cuda.memory_reserved(device) - reserved)
    counted = {"memory_reserved": max(0, torch.cuda.max_memory_reserved(device) - reserved)}
    return Peak(
        allocated=allocated,
        others=counted if own is None else counted | {"memory_driver": max(0, own)},
        unseen=_is_gap(unseen, allocated, least=_CUDA_GAP_LEAST_BYTES),
        facts={"memory_driver": None} | gpu.unread_facts() if own is None else {},
    )


def _is_gap(unseen: int, allocated: int, *, least: int) -> bool:
    """Tell memory that the allocator did not see (numpy's, another thread's, a kernel's own) from noise."""
    return unseen > max(least, _GAP_SHARE * allocated)


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
