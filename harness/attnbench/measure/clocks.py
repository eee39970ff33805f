"""Processor clocks during a measurement, what throttles them, and the verdict on the samples taken meanwhile."""

import os
from contextlib import suppress
from pathlib import Path
from statistics import median

from msgspec import Struct

from attnbench.contracts.case import Option
from attnbench.measure.nvml import Gpu
from attnbench.measure.sampling import Verdict

_LEAST_SHARE = 0.75  # of the default clock, below which a sample is slow
_STEADY = 0.02  # largest relative change of a steady clock
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
        self._readings: list[_Reading] = []  # at block boundaries

    def steady(self) -> bool:
        """Return whether the clock is up, and within 2% of its last reading here; false where it cannot be read."""
        before, self._rising_mhz = self._rising_mhz, self.gpu.sm_clock_mhz
        if before is None or self._rising_mhz is None or self._is_slow(self._rising_mhz):
            return False
        return abs(self._rising_mhz - before) <= _STEADY * before

    def judge(self) -> Verdict:
        """Return a verdict on the block since the last one, by the readings at its ends; unreadable clocks are good."""
        self._readings.append(_Reading(self.gpu.sm_clock_mhz, self.gpu.throttle))
        around = self._readings[-2:]
        if any(_SLOWDOWNS.intersection(reading.throttle or ()) for reading in around):
            return "invalid"
        return "slow" if any(self._is_slow(reading.clock_mhz) for reading in around) else "good"

    def facts(self) -> dict[str, Option]:
        """Return clocks, throttling ('' for none), temperatures and settings; null, with the reason, if unreadable.

        `sm_clock_mhz` is the median over block boundaries.
        """
        clocks = [reading.clock_mhz for reading in self._readings if reading.clock_mhz is not None]
        throttles = [reading.throttle for reading in self._readings if reading.throttle is not None]
        reasons = dict.fromkeys(reason for throttle in throttles for reason in throttle)
        facts: dict[str, Option] = {
            "sm_clock_mhz": median(clocks) if clocks else None,
            "sm_clock_lowest_mhz": min(clocks, default=None),
            "sm_clock_default_mhz": self._default_mhz,
            "memory_clock_mhz": self.gpu.memory_clock_mhz,
            "throttle": ", ".join(reasons) if throttles else None,
            "temperature_before_c": self._before_c,
            "temperature_c": self.gpu.temperature_c,
            "power_w": self.gpu.power_w,
            "other_processes": self.gpu.other_processes,
        }
        return facts | self.gpu.settings() | self.gpu.unread_facts()

    def _is_slow(self, clock_mhz: int | None) -> bool:
        if clock_mhz is None or self._default_mhz is None:
            return False
        return clock_mhz < _LEAST_SHARE * self._default_mhz


def all_invalid(facts: dict[str, Option]) -> str:
    """Return the reason, and the remedy, of a measurement in which every block is invalid."""
    return (
        f"the GPU slowed itself down around every block of samples ({facts['throttle']}, {facts['temperature_c']} C): "
        "mend its cooling or power, then --resume with --retry-failed"
    )


def host_state() -> dict[str, Option]:
    """Return the clock of the processor that runs this (MHz) and the load over a minute, null where unknown."""
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
    """Return a processor's clock from /proc/cpuinfo, read only as far as its lines: a large machine has many."""
    is_own = False
    with Path("/proc/cpuinfo").open() as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() == "processor":
                is_own = int(value) == processor
            elif is_own and name.strip() == "cpu MHz":
                return float(value)
    return None
