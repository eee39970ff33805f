"""When to stop measuring: first call, warm-up, then samples until they say enough. Knows no torch and no device."""

import math
import statistics
from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from attnbench.record import Protocol

StopReason = Literal["quiet", "steady", "samples", "cap", "once"]

MOST_SAMPLES = 1000
MOST_GROUPED = 100_000
_WARM = 0.05  # two calls in a row within 5%: warm
_STEADY = 0.95  # the noise of all samples is at least this share of the noise of their first half: no longer falling


class Sampling(Struct, frozen=True, kw_only=True):
    """Nanoseconds per call, each a mean over `group` calls, and how they came to be."""

    samples_ns: tuple[int, ...]
    first_ns: int
    group: int
    warmup_calls: int
    stop: StopReason
    calls_ns: int
    flags: tuple[str, ...] = ()


class Clock(Struct, frozen=True, kw_only=True):
    """What times calls: `run(n)` gives the nanoseconds of n calls together, `now_ns` the wall clock of the cap.

    `least_ns` is the shortest sample in which the timer's own share is at most 1e-4.
    """

    run: Callable[[int], int]
    now_ns: Callable[[], int]
    least_ns: int
    most_grouped: int = MOST_GROUPED


def sample(clock: Clock, protocol: Protocol) -> Sampling:
    """Measure by the protocol: at most `cap_s` for everything, the first call included."""
    return _Sampler(clock, protocol).sample()


class _Sampler:
    """One measurement under way: its clock, and what all calls so far have taken."""

    def __init__(self, clock: Clock, protocol: Protocol) -> None:
        self.clock, self.protocol = clock, protocol
        self.started, self.spent = clock.now_ns(), 0

    def sample(self) -> Sampling:
        first = self.run(1)
        if self.left_ns() <= 0:
            return self.result([first], first=first, stop="once", flags=("once", "few_samples"))
        warm = self.warm_up()
        group = self.group(estimate=min(warm, default=first))
        samples, stop = self.collect(group)
        flags = ("few_samples",) if len(samples) < self.protocol.min_samples else ()
        return self.result(samples, first=first, stop=stop, flags=flags, group=group, warmup_calls=len(warm))

    def run(self, count: int) -> int:
        taken = self.clock.run(count)
        self.spent += taken
        return taken

    def left_ns(self) -> float:
        return self.protocol.cap_s * 1e9 - (self.clock.now_ns() - self.started)

    def warm_up(self) -> list[int]:
        """Call until two calls in a row agree; no call is begun that would leave no time for a sample."""
        times: list[int] = []
        while len(times) < self.protocol.warmup_calls and sum(times) < self.protocol.warmup_s * 1e9:
            if self.left_ns() < 2 * (times or [self.spent])[-1]:
                break
            times.append(self.run(1))
            if len(times) > 1 and abs(times[-1] - times[-2]) <= _WARM * times[-2]:
                break
        return times

    def group(self, *, estimate: int) -> int:
        """Choose how many calls make a sample: long enough for the timer, and 1,000 of them fill the minimum time."""
        shortest = max(self.clock.least_ns, self.protocol.min_time_s * 1e9 / MOST_SAMPLES)
        return min(self.clock.most_grouped, max(1, math.ceil(shortest / max(1, estimate))))

    def collect(self, group: int) -> tuple[list[int], StopReason]:
        samples: list[int] = []
        total = 0
        while len(samples) < MOST_SAMPLES:
            if samples and self.left_ns() < samples[-1] * group:
                return samples, "cap"
            taken = self.run(group)
            samples.append(round(taken / group))
            total += taken
            if len(samples) >= self.protocol.min_samples and total >= self.protocol.min_time_s * 1e9:
                noise = _noise(samples)
                if noise <= self.protocol.stop_noise:
                    return samples, "quiet"
                if noise >= _STEADY * _noise(samples[: len(samples) // 2]):
                    return samples, "steady"
        return samples, "samples"

    def result(
        self,
        samples: list[int],
        *,
        first: int,
        stop: StopReason,
        flags: tuple[str, ...],
        group: int = 1,
        warmup_calls: int = 0,
    ) -> Sampling:
        return Sampling(
            samples_ns=tuple(samples),
            first_ns=first,
            group=group,
            warmup_calls=warmup_calls,
            stop=stop,
            calls_ns=self.spent,
            flags=flags,
        )


def _noise(samples: list[int]) -> float:
    """Give the standard deviation relative to the mean."""
    mean = statistics.fmean(samples)
    return statistics.pstdev(samples, mean) / mean if mean else 0.0
