"""The sampling protocol: first call, warm-up, then samples until a stopping rule holds. Without torch or a device."""

import math
from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np
from msgspec import Struct

from attnbench.contracts import record, stats

StopReason = Literal["quiet", "steady", "samples", "cap", "once"]
Verdict = Literal["good", "slow", "invalid"]

MOST_SAMPLES = 1000
MOST_GROUPED = 100_000
_WARM = 0.05  # relative difference of two successive calls up to which the caches are warm
_RISE_NS = 500_000_000  # for a device's clock to rise
_BLOCK_NS = 50_000_000  # between two checks of a monitor, or one sample where that is longer
_RECHECK = 1.1  # noise is computed again once there are 10% more samples
_MOST_TRIALS = 10  # of a group's length
_STEADY = 0.95  # noise is no longer falling if it is at least this share of the noise of the first half of the samples


class Sampling(Struct, frozen=True, kw_only=True):
    """Samples in nanoseconds per call, each a mean over `group` calls, and how they were taken.

    `discarded` counts the samples that the monitor's verdict excluded, those of `invalid_blocks` among them. There are
    no samples if every block is invalid. `calls_ns` is the time spent in all calls.
    """

    samples_ns: tuple[int, ...]
    first_ns: int
    group: int
    warmup_calls: int
    warmup_ns: int
    stop: StopReason
    calls_ns: int
    discarded: int = 0
    invalid_blocks: int = 0
    flags: tuple[str, ...] = ()


class Clock(Struct, frozen=True, kw_only=True):
    """A timer of calls: `run(n)` returns the nanoseconds of n calls together, `now_ns` the wall clock for the cap.

    `least_ns` is the shortest sample in which the timer's own share is at most 1e-4, `most_grouped` the largest n.
    """

    run: Callable[[int], int]
    now_ns: Callable[[], int]
    least_ns: int
    most_grouped: int = MOST_GROUPED


class Monitor(Protocol):
    """Watches a device whose clock varies."""

    def steady(self) -> bool:
        """Return whether the device's clock is up and steady; called during warm-up, about every 50 ms."""
        ...

    def judge(self) -> Verdict:
        """Return the verdict on the block since the last call: `slow` by its clock, `invalid` by its throttling."""
        ...


def sample(clock: Clock, protocol: record.Protocol, *, monitor: Monitor | None = None) -> Sampling:
    """Measure by the protocol, within `cap_s` for all calls, the first included.

    A first call beyond the cap may have compiled, so it is never a sample: one more call is made, under a cap of its
    own. If that exceeds the cap too, it is the only sample, flagged `once`; else the measurement goes on.

    With a monitor, warm-up lasts until the device's clock is steady, at most half a second, and samples come in blocks
    that the monitor judges. Only samples of good blocks count; if every valid block is slow, the slow samples count,
    flagged `throttled`.
    """
    return _Sampler(clock, protocol, monitor).sample()


class _Blocks:
    """Samples by the verdict on their block. Without a monitor each sample is a good block of its own."""

    def __init__(self, clock: Clock, monitor: Monitor | None) -> None:
        self.clock, self.monitor = clock, monitor
        self.good: list[int] = []
        self.slow: list[int] = []
        self.good_ns = self.invalid = self.lost = 0
        self._block: list[int] = []
        self._since = 0

    def open(self) -> None:
        """Begin the first block; the monitor's verdict on what came before is discarded."""
        if self.monitor:
            self.monitor.judge()
        self._since = self.clock.now_ns()

    def add(self, sample_ns: int) -> None:
        self._block.append(sample_ns)

    @property
    def full(self) -> bool:
        """Whether the current block is long enough, or completes the samples that may be stored."""
        if self.monitor is None or len(self.good) + len(self._block) >= MOST_SAMPLES:
            return True
        return self.clock.now_ns() - self._since >= _BLOCK_NS

    def close(self) -> None:
        """Sort the block's samples by its verdict, and begin the next block."""
        verdict = self.monitor.judge() if self.monitor and self._block else "good"
        if verdict == "good":
            self.good += self._block
            self.good_ns += sum(self._block)
        elif verdict == "slow":
            self.slow += self._block
        else:
            self.invalid += 1
            self.lost += len(self._block)
        self._block, self._since = [], self.clock.now_ns()


class _Sampler:
    """One measurement in progress: its clock, and the time spent in calls so far."""

    def __init__(self, clock: Clock, protocol: record.Protocol, monitor: Monitor | None) -> None:
        self.clock, self.protocol, self.monitor = clock, protocol, monitor
        self.blocks = _Blocks(clock, monitor)
        self.started, self.spent, self.warmup_ns = clock.now_ns(), 0, 0
        self.shortest = max(clock.least_ns, protocol.min_time_s * 1e9 / MOST_SAMPLES)
        self.least, self.group, self.trials = protocol.min_samples, 1, 0
        self.warm: list[int] = []

    def sample(self) -> Sampling:
        first = self.run(1)
        if self.left_ns() <= 0:
            self.started = self.clock.now_ns()
            self.blocks.open()
            second = self.run(1)
            if self.left_ns() <= 0:
                self.blocks.add(second)
                self.blocks.close()
                return self.result(first, stop="once")
            self.warm.append(second)
        began = self.clock.now_ns()
        self.warm_up()
        self.rise()
        self.warmup_ns = self.clock.now_ns() - began
        self.blocks.open()
        taken = self.fit(self.grouped(estimate=min(self.warm, default=first)))
        return self.result(first, stop=self.collect(taken))

    def run(self, count: int) -> int:
        taken = self.clock.run(count)
        self.spent += taken
        return taken

    def left_ns(self) -> float:
        return self.protocol.cap_s * 1e9 - (self.clock.now_ns() - self.started)

    def warm_up(self) -> None:
        """Call until two successive calls agree."""
        while len(self.warm) < self.protocol.warmup_calls and sum(self.warm) < self.protocol.warmup_s * 1e9:
            if not self.has_time_to_warm():
                break
            self.warm.append(self.run(1))
            if len(self.warm) > 1 and abs(self.warm[-1] - self.warm[-2]) <= _WARM * self.warm[-2]:
                break

    def rise(self) -> None:
        """Keep calling until the monitored device's clock has risen, at most half a second."""
        began = checked = self.clock.now_ns()
        while self.monitor and self.clock.now_ns() - began < _RISE_NS and self.has_time_to_warm():
            self.warm.append(self.run(1))
            if self.clock.now_ns() - checked >= _BLOCK_NS:
                if self.monitor.steady():
                    break
                checked = self.clock.now_ns()

    def has_time_to_warm(self) -> bool:
        """Return whether another call like the last would leave time for a sample."""
        return self.left_ns() >= 2 * (self.warm or [self.spent])[-1]

    def grouped(self, *, estimate: float) -> int:
        """Return the calls of a sample: it is long enough for the timer, and 1,000 samples fill the minimum time."""
        return min(self.clock.most_grouped, max(1, math.ceil(self.shortest / max(1, estimate))))

    def fit(self, group: int) -> int:
        """Lengthen a group, chosen by cold calls, until it takes long enough; return the time of the last trial.

        The last trial is the first sample; the calls of shorter ones count as warm-up.
        """
        self.group = group
        for _ in range(_MOST_TRIALS):
            taken = self.run(self.group)
            longer = max(self.group, self.grouped(estimate=taken / self.group))
            if longer == self.group or taken >= self.shortest or self.left_ns() <= 0:
                return taken
            self.trials, self.group = self.trials + self.group, longer
        return self.run(self.group)

    def collect(self, taken: int) -> StopReason:
        """Sample until a stopping rule holds; `taken` is the time of the first sample."""
        while True:
            self.blocks.add(round(taken / self.group))
            if self.blocks.full:
                self.blocks.close()
                if stop := self.stop_reason():
                    return stop
            if self.left_ns() < taken:
                self.blocks.close()
                return "cap"
            taken = self.run(self.group)

    def stop_reason(self) -> StopReason | None:
        """Return why the good samples suffice, or None; noise is not computed after every sample."""
        good = self.blocks.good
        if len(good) >= MOST_SAMPLES:
            return "samples"
        if len(good) < self.least or self.blocks.good_ns * self.group < self.protocol.min_time_s * 1e9:
            return None
        self.least = math.ceil(len(good) * _RECHECK)
        noise = _noise(good)
        if noise <= self.protocol.stop_noise:
            return "quiet"
        return "steady" if noise >= _STEADY * _noise(good[: len(good) // 2]) else None

    def result(self, first: int, *, stop: StopReason) -> Sampling:
        blocks = self.blocks
        throttled = bool(blocks.slow) and not blocks.good
        samples = blocks.slow[-MOST_SAMPLES:] if throttled else blocks.good
        few = len(samples) < self.protocol.min_samples
        flags = {"once": stop == "once", "few_samples": few, "throttled": throttled}
        return Sampling(
            samples_ns=tuple(samples),
            first_ns=first,
            group=self.group,
            warmup_calls=len(self.warm) + self.trials,
            warmup_ns=self.warmup_ns,
            stop=stop,
            calls_ns=self.spent,
            discarded=len(blocks.good) + len(blocks.slow) + blocks.lost - len(samples),
            invalid_blocks=blocks.invalid,
            flags=tuple(flag for flag, holds in flags.items() if holds),
        )


def _noise(samples: list[int]) -> float:
    """Return the relative deviation by the quartiles, which an occasional slow sample does not change."""
    quantiles = stats.quantiles(np.asarray(samples, dtype=np.float64))
    return stats.relative_spread([quantiles.median], quantiles) or 0.0
