"""When to stop measuring: first call, warm-up, then samples until they say enough. Knows no torch and no device."""

import math
from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from attnbench.record import Protocol

StopReason = Literal["quiet", "steady", "samples", "cap", "once"]

MOST_SAMPLES = 1000
MOST_GROUPED = 100_000
_WARM = 0.05  # two calls in a row within 5%: warm
_RECHECKED = 1.1  # the noise is looked at again when there are 10% more samples
_MOST_TRIALS = 10  # of a group's length
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
    """Measure by the protocol: at most `cap_s` for everything, the first call included.

    A first call beyond the cap may have compiled, so it is never the figure: one more call is made, under a cap of its
    own. Where that call exceeds the cap too, it is the only sample, flagged `once`; else the measurement goes on.
    """
    return _Sampler(clock, protocol).sample()


class _Sampler:
    """One measurement under way: its clock, and what all calls so far have taken."""

    def __init__(self, clock: Clock, protocol: Protocol) -> None:
        self.clock, self.protocol = clock, protocol
        self.started, self.spent = clock.now_ns(), 0
        self.shortest = max(clock.least_ns, protocol.min_time_s * 1e9 / MOST_SAMPLES)

    def sample(self) -> Sampling:
        first = self.run(1)
        warm: list[int] = []
        if self.left_ns() <= 0:
            self.started = self.clock.now_ns()
            second = self.run(1)
            if self.left_ns() <= 0:
                return self.result([second], first=first, stop="once", flags=("once", "few_samples"))
            warm.append(second)
        self.warm_up(warm)
        group, opening, trials = self.fit(self.group(estimate=min(warm, default=first)))
        samples, stop = self.collect(group, opening)
        flags = ("few_samples",) if len(samples) < self.protocol.min_samples else ()
        return self.result(samples, first=first, stop=stop, flags=flags, group=group, warmup_calls=len(warm) + trials)

    def run(self, count: int) -> int:
        taken = self.clock.run(count)
        self.spent += taken
        return taken

    def left_ns(self) -> float:
        return self.protocol.cap_s * 1e9 - (self.clock.now_ns() - self.started)

    def warm_up(self, times: list[int]) -> None:
        """Call, adding to `times`, until two in a row agree; no call is begun that would leave no time for a sample."""
        while len(times) < self.protocol.warmup_calls and sum(times) < self.protocol.warmup_s * 1e9:
            if self.left_ns() < 2 * (times or [self.spent])[-1]:
                break
            times.append(self.run(1))
            if len(times) > 1 and abs(times[-1] - times[-2]) <= _WARM * times[-2]:
                break

    def group(self, *, estimate: float) -> int:
        """Choose how many calls make a sample: long enough for the timer, and 1,000 of them fill the minimum time."""
        return min(self.clock.most_grouped, max(1, math.ceil(self.shortest / max(1, estimate))))

    def fit(self, group: int) -> tuple[int, int, int]:
        """Lengthen a group that was chosen from cold calls until it takes long enough.

        Gives the group, what the last of them took (which is the first sample), and the calls of those too short.
        """
        trials = 0
        for _ in range(_MOST_TRIALS):
            taken = self.run(group)
            longer = max(group, self.group(estimate=taken / group))
            if longer == group or taken >= self.shortest or self.left_ns() <= 0:
                return group, taken, trials
            trials, group = trials + group, longer
        return group, self.run(group), trials

    def collect(self, group: int, opening: int) -> tuple[list[int], StopReason]:
        samples, total = [round(opening / group)], opening
        check = self.protocol.min_samples
        while len(samples) < MOST_SAMPLES:
            if len(samples) >= check and total >= self.protocol.min_time_s * 1e9:
                check = math.ceil(len(samples) * _RECHECKED)
                noise = _noise(samples)
                if noise <= self.protocol.stop_noise:
                    return samples, "quiet"
                if noise >= _STEADY * _noise(samples[: len(samples) // 2]):
                    return samples, "steady"
            if self.left_ns() < samples[-1] * group:
                return samples, "cap"
            taken = self.run(group)
            samples.append(round(taken / group))
            total += taken
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
    mean = math.fsum(samples) / len(samples)
    return math.sqrt(math.fsum((each - mean) ** 2 for each in samples) / len(samples)) / mean if mean else 0.0
