"""The clocks: nanoseconds of prepared calls on the CPU, and device nanoseconds between two events on CUDA."""

import math
import time
from collections.abc import Callable, Iterable

import torch

from attnbench.measure.sampling import Clock
from attnbench.measure.workload import Call

Prepare = Callable[[int], Iterable[Call]]

_TIMER_SHARE = 1e-4
_LEAST_SAMPLE_NS = 1_000_000
_FLUSH_LEAST_BYTES = 256 << 20
_SPIN_CYCLES = 100_000  # about 50 us at 2 GHz: longer than it takes to queue a launch


def cpu_clock(prepare: Prepare) -> Clock:
    """Time calls with perf_counter_ns; a sample is at least 1 ms, and long enough for the timer."""

    def run(count: int) -> int:
        calls = prepare(count)
        start = time.perf_counter_ns()
        for call in calls:
            call()
        return time.perf_counter_ns() - start

    least = max(_LEAST_SAMPLE_NS, math.ceil(timer_cost_ns() / _TIMER_SHARE))
    return Clock(run=run, now_ns=time.perf_counter_ns, least_ns=least)


def cuda_clock(prepare: Prepare, device: str, *, hot: bool, synchronises: bool) -> Clock:
    """Time calls with CUDA events, the L2 flushed before each sample unless `hot`.

    A short spin kernel is queued first so that the launch is not waited for, except for calls that synchronise.
    """
    flush = None if hot else torch.empty(_flush_bytes(device), dtype=torch.int8, device=device)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def run(count: int) -> int:
        calls = prepare(count)
        if flush is not None:
            flush.zero_()
        if not synchronises:
            torch.cuda._sleep(_SPIN_CYCLES)  # noqa: SLF001 - the only spin kernel that torch has
        start.record()
        for call in calls:
            call()
        end.record()
        end.synchronize()
        return round(float(start.elapsed_time(end)) * 1e6)

    # With cold caches a sample is one call: a second would find in the L2 what the first one left there.
    return Clock(run=run, now_ns=time.perf_counter_ns, least_ns=_LEAST_SAMPLE_NS if hot else 1)


def timer_cost_ns() -> int:
    """Measure what two readings of the timer cost."""
    readings = [time.perf_counter_ns() for _ in range(1000)]
    return max(1, (readings[-1] - readings[0]) // (len(readings) - 1))


def _flush_bytes(device: str) -> int:
    """Give max(256 MB, twice the L2): what must be written until nothing of the inputs is left in the cache."""
    return max(_FLUSH_LEAST_BYTES, 2 * int(torch.cuda.get_device_properties(device).L2_cache_size))
