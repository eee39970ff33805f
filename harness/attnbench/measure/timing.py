"""Timers of calls: nanoseconds by the wall clock on the CPU, and between two events of the device on CUDA."""

import math
from collections.abc import Callable, Iterable
from itertools import islice
from time import perf_counter_ns  # bound before a plugin is imported, which may replace the module's

import torch

from attnbench.measure.failure import on_account_of
from attnbench.measure.sampling import Clock
from attnbench.measure.workload import Call

Prepare = Callable[[int], Iterable[Call]]
Keep = Callable[[object], None]  # takes what the last call of a sample returned

_TIMER_SHARE = 1e-4
_LEAST_SAMPLE_NS = 1_000_000
_FLUSH_LEAST_BYTES = 256 << 20
_CYCLES_PER_NS = 2.0  # of the spin kernel's counter, until the first spin has been timed
_LEAST_SPIN_NS, _LONGEST_SPIN_NS = 50_000, 10_000_000
_SPIN_MARGIN = 1.5
_IDLE_SHARE = 0.05


def cpu_clock(prepare: Prepare, keep: Keep) -> Clock:
    """Return a clock by perf_counter_ns; its samples are at least 1 ms, and long enough for the timer."""

    def run(count: int) -> int:
        calls = iter(prepare(count))
        start = perf_counter_ns()
        for call in islice(calls, count - 1):
            call()
        out = next(calls)()
        taken = perf_counter_ns() - start
        keep(out)
        return taken

    least = max(_LEAST_SAMPLE_NS, math.ceil(timer_cost_ns() / _TIMER_SHARE))
    return Clock(run=run, now_ns=perf_counter_ns, least_ns=least)


class CudaTimer:
    """Times calls on a CUDA device, with the L2 cache flushed before each sample unless `hot`.

    A spin kernel is queued first, longer than the host took to queue the last sample's calls, so that the device never
    waits for a launch; not for calls that synchronise, which would wait for the spin.
    """

    def __init__(self, prepare: Prepare, keep: Keep, device: str, *, hot: bool, synchronises: bool) -> None:
        self.prepare, self.keep, self.device, self.hot, self.spins = prepare, keep, device, hot, not synchronises
        with on_account_of("the buffer that flushes the L2"):
            self._flush = None if hot else torch.empty(_flush_bytes(device), dtype=torch.int8, device=device)
        self._before, self._start, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(3))
        self._queue_ns = 0.0  # to queue one call, by the last sample
        self._cycles_per_ns = _CYCLES_PER_NS
        self._idled: list[bool] = []

    @property
    def clock(self) -> Clock:
        """The device's clock. With cold caches a sample is one call: a second would find the first's data in the L2."""
        if self.hot:
            return Clock(run=self.run, now_ns=perf_counter_ns, least_ns=_LEAST_SAMPLE_NS)
        return Clock(run=self.run, now_ns=perf_counter_ns, least_ns=1, most_grouped=1)

    def run(self, count: int) -> int:
        """Return the device's nanoseconds for the next `count` calls, between two events."""
        calls = iter(self.prepare(count))
        self._flush_cache()
        self._before.record()
        cycles = self._spin(count)
        queued_at = perf_counter_ns()
        self._start.record()
        for call in islice(calls, count - 1):
            call()
        out = next(calls)()
        self._end.record()
        queue_ns = perf_counter_ns() - queued_at
        self._end.synchronize()
        taken_ns = float(self._start.elapsed_time(self._end)) * 1e6
        self.keep(out)
        if cycles:
            self._record_spin(cycles, queue_ns, count=count, taken_ns=taken_ns)
        return round(taken_ns)

    def wall(self, count: int) -> int:
        """Return the wall-clock nanoseconds for the next `count` calls, launches included."""
        calls = self.prepare(count)
        self._flush_cache()
        torch.cuda.synchronize(self.device)
        start = perf_counter_ns()
        for call in calls:
            call()
        torch.cuda.synchronize(self.device)
        return perf_counter_ns() - start

    def flags(self, samples: int) -> tuple[str, ...]:
        """Return the flag `launch_bound` if the device may have waited for the host in most of the last `samples`."""
        return ("launch_bound",) if 2 * sum(self._idled[-samples:]) > samples else ()

    def _flush_cache(self) -> None:
        if self._flush is not None:
            self._flush.zero_()

    def _spin(self, count: int) -> int:
        """Queue the spin kernel, and return its cycles."""
        if not self.spins:
            return 0
        spin_ns = min(_LONGEST_SPIN_NS, max(_LEAST_SPIN_NS, _SPIN_MARGIN * self._queue_ns * count))
        cycles = math.ceil(spin_ns * self._cycles_per_ns)
        torch.cuda._sleep(cycles)  # noqa: SLF001 - the only spin kernel that torch has
        return cycles

    def _record_spin(self, cycles: int, queue_ns: int, *, count: int, taken_ns: float) -> None:
        """Record how long the spin took, and whether it ended so early that the sample may contain idle time.

        The device cannot have idled longer than the host went on queueing after the spin. Whether the host had queued
        everything before the device was done is no criterion: an idle device is late, too.
        """
        spun_ns = float(self._before.elapsed_time(self._start)) * 1e6
        if spun_ns > 0:
            self._cycles_per_ns = cycles / spun_ns
        self._queue_ns = queue_ns / count
        self._idled.append(queue_ns - spun_ns > _IDLE_SHARE * taken_ns)


def timer_cost_ns() -> int:
    """Return the mean time between two successive readings of the timer."""
    readings = [perf_counter_ns() for _ in range(1000)]
    return max(1, (readings[-1] - readings[0]) // (len(readings) - 1))


def _flush_bytes(device: str) -> int:
    """Return max(256 MB, twice the L2): the bytes to write until nothing of the inputs is left in the cache."""
    return max(_FLUSH_LEAST_BYTES, 2 * int(torch.cuda.get_device_properties(device).L2_cache_size))
