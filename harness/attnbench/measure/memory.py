"""The memory probe: the peak memory of one call of a mechanism above its inputs, in a process of its own."""

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
from attnbench.contracts.record import BUILDING, HELD, OWN, Job, Measurement, Outcome
from attnbench.measure.nvml import Gpu
from attnbench.measure.workload import Call, Workload

_GAP_SHARE = 0.1
_CPU_GAP_LEAST_BYTES = 4_000_000
_CUDA_GAP_LEAST_BYTES = 64 << 20


class Peak(Struct, frozen=True, kw_only=True):
    """Peak bytes of one call: by torch's allocator, and by other counters (by metric); `left` are those it leaves.

    `unseen` is true if another counter shows memory that the allocator did not. `facts` hold the counters that could
    not be read, null, with the reason.
    """

    allocated: int
    left: int = 0
    others: dict[str, int] = {}
    unseen: bool = False
    facts: dict[str, Option] = {}


def measure(job: Job, report: Callable[[str], None]) -> Outcome:
    """Measure the first call, which may build what later calls reuse, and the steady state, above the inputs."""
    del report  # a memory job is two calls
    peak_of = _cpu_peak
    if job.case.device.startswith("cuda"):
        peak_of = partial(_cuda_peak, Gpu(job.case.device))
    workload, building = _built(job)
    inputs = workload.input_bytes
    with contextlib.nullcontext() if workload.differentiates else torch.no_grad():
        started = time.perf_counter()
        first = peak_of(_next(workload))
        once = time.perf_counter() - started > job.protocol.cap_s
        steady = first if once else peak_of(_next(workload))
    workload.judge()
    # Unseen memory is judged in the steady state, as a first call also loads code.
    flags = ("once",) if once else ("unseen_memory",) if steady.unseen else ()
    measurements = [
        Measurement(metric="memory", unit="bytes", values=(steady.allocated,), flags=flags),
        Measurement(metric="memory_first_call", unit="bytes", values=(first.allocated,)),
    ]
    measurements += [Measurement(metric=metric, unit="bytes", values=(size,)) for metric, size in steady.others.items()]
    # Both calls leave their output to be judged; what the first one leaves besides is kept for later ones.
    kept = max(0, first.left - steady.left)
    own = kept + max(0, building[HELD] - inputs)
    facts = steady.facts | building | {OWN: own}
    return Outcome(status="ok", measurements=tuple(measurements), backend=workload.backend, facts=facts)


def allocator_peak(call: Call) -> int:
    """Return the peak of the CPU allocator during a call, from the profiler's allocation events: exact to the byte."""
    return max(0, *_held(call))


def _built(job: Job) -> tuple[Workload, dict[str, int]]:
    """Build the mechanism and draw its inputs; return them with the facts of the peak meanwhile, and of what is held.

    (A model needs that memory besides its call's. Two sets of inputs, so that two calls see different ones.)
    """
    built: list[Workload] = []

    def build() -> None:
        built.append(Workload.of(job, sets=2))

    if job.case.device.startswith("cuda"):
        build()
        device = job.case.device
        peak, held = torch.cuda.max_memory_allocated(device), torch.cuda.memory_allocated(device)
    else:
        history = _held(build)
        peak, held = max(0, *history), history[-1]
    return built[0], {BUILDING: peak, HELD: held}


def _held(call: Call) -> list[int]:
    """Return the bytes that the CPU allocator holds for a call, after each of its allocation events."""
    gc.collect()  # garbage from before, freed during the call, would lower the count
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
    history = _held(call)
    allocated, left = max(0, *history), history[-1]
    if before is None:
        return Peak(allocated=allocated, left=left)
    resident = max(0, _resident_bytes("VmHWM") - before)
    unseen = _is_gap(resident - allocated, allocated, least=_CPU_GAP_LEAST_BYTES)
    return Peak(allocated=allocated, left=left, others={"memory_resident": resident}, unseen=unseen)


def _cuda_peak(gpu: Gpu, call: Call) -> Peak:
    """Return the peak by torch's allocator, the growth of its reserve, and that of the driver's count.

    The driver's count is this process's, by NVML. Where NVML cannot read it, the whole device's free memory still shows
    what torch did not allocate, but is not a measurement: other processes change it too.
    """
    device = gpu.device
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()  # or the reserve of earlier calls would hide this one's
    torch.cuda.reset_peak_memory_stats(device)
    before, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    process_before, free_before = gpu.process_bytes, torch.cuda.mem_get_info(device)[0]
    call()
    torch.cuda.synchronize(device)
    process_after, lost = gpu.process_bytes, free_before - torch.cuda.mem_get_info(device)[0]
    driver = None if process_after is None or process_before is None else process_after - process_before
    allocated = torch.cuda.max_memory_allocated(device) - before
    unseen = (lost if driver is None else driver) - (torch.cuda.memory_reserved(device) - reserved)
    others = {"memory_reserved": max(0, torch.cuda.max_memory_reserved(device) - reserved)}
    return Peak(
        allocated=allocated,
        left=torch.cuda.memory_allocated(device) - before,
        others=others if driver is None else others | {"memory_driver": max(0, driver)},
        unseen=_is_gap(unseen, allocated, least=_CUDA_GAP_LEAST_BYTES),
        facts={"memory_driver": None} | gpu.unread_facts() if driver is None else {},
    )


def _is_gap(unseen: int, allocated: int, *, least: int) -> bool:
    """Return whether memory that the allocator did not see (numpy's, another thread's, a kernel's) exceeds noise."""
    return unseen > max(least, _GAP_SHARE * allocated)


def _reset_resident_peak() -> int | None:
    """Reset the resident peak to what is resident now, and return that; None without Linux's /proc."""
    with contextlib.suppress(AttributeError):  # glibc only: pages that earlier calls freed would hide this call's
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
