"""How fast a processor's clock runs while it is measured, what holds it back, and what that makes of the samples."""

import os
from contextlib import suppress
from pathlib import Path
from statistics import median

from msgspec import Struct

from attnbench.contracts.case import Option
from attnbench.measure.nvml import Gpu
from attnbench.measure.sampling import Verdict

_LEAST_SHARE = 0.75  # of the default clock
_STEADY = 0.02
_SLOWDOWNS = {"hardware slowdown", "software thermal slowdown", "hardware thermal slowdown", "power brake"}


class _Reading(Struct, frozen=True):
    clock_mhz: int | None
    throttle: tuple[str, ...] | None


class Clocks:
    """Watches a CUDA device's clock around blocks of samples: a `sampling.Monitor`."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self._before_c = gpu.temperature_c
        self._default_mhz = gpu.default_clock_mhz
        self._rising_mhz: int | None = None
        self._readings: list[_Reading] = []  # at the bounds of blocks

    def steady(self) -> bool:
        """Tell whether the clock is up, and within 2% of where it was when last asked; not where it cannot be read."""
        before, self._rising_mhz = self._rising_mhz, self.gpu.sm_clock_mhz
        if before is None or self._rising_mhz is None or self._is_slow(self._rising_mhz):
            return False
        return abs(self._rising_mhz - before) <= _STEADY * before

    def judge(self) -> Verdict:
        """Judge what ran since the last asking, by the readings before and after it; what cannot be read is good."""
        self._readings.append(_Reading(self.gpu.sm_clock_mhz, self.gpu.throttle))
        around = self._readings[-2:]
        if any(_SLOWDOWNS.intersection(reading.throttle or ()) for reading in around):
            return "invalid"
        return "slow" if any(self._is_slow(reading.clock_mhz) for reading in around) else "good"

    def facts(self) -> dict[str, Option]:
        """Give clocks, what held them back ('' for nothing), temperatures and settings; nulls, and why, where unread.

        `sm_clock_mhz` is the median over the blocks' bounds.
        """
        read = [reading.clock_mhz for reading in self._readings if reading.clock_mhz is not None]
        told = [reading.throttle for reading in self._readings if reading.throttle is not None]
        found: dict[str, Option] = {
            "sm_clock_mhz": median(read) if read else None,
            "sm_clock_lowest_mhz": min(read, default=None),
            "sm_clock_default_mhz": self._default_mhz,
            "memory_clock_mhz": self.gpu.memory_clock_mhz,
            "throttle": ", ".join(dict.fromkeys(words for each in told for words in each)) if told else None,
            "temperature_before_c": self._before_c,
            "temperature_c": self.gpu.temperature_c,
            "power_w": self.gpu.power_w,
            "other_processes": self.gpu.other_processes,
        }
        return found | self.gpu.settings() | self.gpu.unread_facts()

    def _is_slow(self, clock_mhz: int | None) -> bool:
        if clock_mhz is None or self._default_mhz is None:
            return False
        return clock_mhz < _LEAST_SHARE * self._default_mhz


def why_no_figure(facts: dict[str, Option]) -> str:
    """Say why a measurement of which every block is invalid has no figure."""
    return (
        f"the GPU slowed itself down around every block of samples ({facts['throttle']}, {facts['temperature_c']} C): "
        "mend its cooling or power, then --resume with --retry-failed"
    )


def host_state() -> dict[str, Option]:
    """Give the clock of the processor that runs this (MHz) and the machine's load over a minute, null where unknown."""
    load = None
    with suppress(OSError, AttributeError):
        load = round(os.getloadavg()[0], 2)
    return {"cpu_mhz": _cpu_mhz(), "load": load}


def _cpu_mhz() -> float | None:
    with suppress(OSError, ValueError, IndexError):
        processor = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[36])
        with suppress(OSError):
            path = Path(f"/sys/devices/system/cpu/cpu{processor}/cpufreq/scaling_cur_freq")
            return int(path.read_text()) / 1000
        return _listed_mhz(processor)
    return None


def _listed_mhz(processor: int) -> float | None:
    """Read a processor's clock from /proc/cpuinfo, no further than its lines: a large machine has many."""
    here = False
    with Path("/proc/cpuinfo").open() as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() == "processor":
                here = int(value) == processor
            elif here and name.strip() == "cpu MHz":
                return float(value)
    return None
