"""The clocks: nanoseconds of prepared calls on the CPU, and device nanoseconds between two events on CUDA."""

import math
import time
from collections.abc import Callable, Iterable

import torch

from attnbench.measure.failure import on_account_of
from attnbench.measure.sampling import Clock
from attnbench.measure.workload import Call

Prepare = Callable[[int], Iterable[Call]]

_TIMER_SHARE = 1e-4
_LEAST_SAMPLE_NS = 1_000_000
_FLUSH_LEAST_BYTES = 256 << 20
_CYCLES_PER_NS = 2.0  # of the spin kernel's counter, until the first one has been timed
_LEAST_SPIN_NS, _LONGEST_SPIN_NS = 50_000, 10_000_000
_SPIN_MARGIN = 1.5
_IDLE_SHARE = 0.05


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


class CudaTimer:
    """Time calls on a CUDA device, the L2 flushed before each sample unless `hot`.

    A spin kernel is queued first, longer than the host took to queue the calls before it, so that the launch is not
    waited for; not for calls that synchronise.
    """

    def __init__(self, prepare: Prepare, device: str, *, hot: bool, synchronises: bool) -> None:
        self.prepare, self.device, self.hot, self.spins = prepare, device, hot, not synchronises
        with on_account_of("the buffer that flushes the L2"):
            self._flush = None if hot else torch.empty(_flush_bytes(device), dtype=torch.int8, device=device)
        self._before, self._start, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(3))
        self._queue_ns = 0.0  # to queue one call, as the last sample found
        self._cycles_per_ns = _CYCLES_PER_NS
        self._waited: list[bool] = []

    @property
    def clock(self) -> Clock:
        """Give the clock of the device. With cold caches a sample is one call: a second would find the first's L2."""
        if self.hot:
            return Clock(run=self.run, now_ns=time.perf_counter_ns, least_ns=_LEAST_SAMPLE_NS)
        return Clock(run=self.run, now_ns=time.perf_counter_ns, least_ns=1, most_grouped=1)

    def run(self, count: int) -> int:
        """Give the device's nanoseconds of the next `count` calls, between two events."""
        calls = self.prepare(count)
        self._make_cold()
        self._before.record()
        cycles = self._spin(count)
        queued_at = time.perf_counter_ns()
        self._start.record()
        for call in calls:
            call()
        self._end.record()
        queue_ns = time.perf_counter_ns() - queued_at
        self._end.synchronize()
        taken_ns = float(self._start.elapsed_time(self._end)) * 1e6
        if cycles:
            self._learn(cycles, queue_ns, count=count, taken_ns=taken_ns)
        return round(taken_ns)

    def wall(self, count: int) -> int:
        """Give the nanoseconds that a caller waits for the next `count` calls, launches included."""
        calls = self.prepare(count)
        self._make_cold()
        torch.cuda.synchronize(self.device)
        start = time.perf_counter_ns()
        for call in calls:
            call()
        torch.cuda.synchronize(self.device)
        return time.perf_counter_ns() - start

    def flags(self, samples: int) -> tuple[str, ...]:
        """Flag `launch_bound` where in most of the last `samples` the device may have waited for the host."""
        return ("launch_bound",) if 2 * sum(self._waited[-samples:]) > samples else ()

    def _make_cold(self) -> None:
        if self._flush is not None:
            self._flush.zero_()

    def _spin(self, count: int) -> int:
        if not self.spins:
            return 0
        wanted_ns = min(_LONGEST_SPIN_NS, max(_LEAST_SPIN_NS, _SPIN_MARGIN * self._queue_ns * count))
        cycles = math.ceil(wanted_ns * self._cycles_per_ns)
        torch.cuda._sleep(cycles)  # noqa: SLF001 - the only spin kernel that torch has
        return cycles

    def _learn(self, cycles: int, queue_ns: int, *, count: int, taken_ns: float) -> None:
        """Note what the spin really took, and whether it was over so early that the figure may hold idle time.

        The device cannot have waited longer than the host went on queueing after the spin. That all calls were queued
        before spin and calls were over says nothing: the time between the events holds the wait.
        """
        spun_ns = float(self._before.elapsed_time(self._start)) * 1e6
        if spun_ns > 0:
            self._cycles_per_ns = cycles / spun_ns
        self._queue_ns = queue_ns / count
        self._waited.append(queue_ns - spun_ns > _IDLE_SHARE * taken_ns)


def timer_cost_ns() -> int:
    """Measure what two readings of the timer cost."""
    readings = [time.perf_counter_ns() for _ in range(1000)]
    return max(1, (readings[-1] - readings[0]) // (len(readings) - 1))


def _flush_bytes(device: str) -> int:
    """Give max(256 MB, twice the L2): what must be written until nothing of the inputs is left in the cache."""
    return max(_FLUSH_LEAST_BYTES, 2 * int(torch.cuda.get_device_properties(device).L2_cache_size))
