"""An NVIDIA GPU as its driver's library (NVML) tells of it: each reading a number, or None with its reason kept.

Nothing here raises, and nothing changes a setting of the GPU.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import torch

from attnbench.contracts.case import Option

T = TypeVar("T")

# NVML's names for why a clock is lower than it could be; idling and a clock set on purpose are no such reasons.
_REASONS = {
    "SwPowerCap": "power cap",
    "HwSlowdown": "hardware slowdown",
    "SyncBoost": "sync boost",
    "SwThermalSlowdown": "software thermal slowdown",
    "HwThermalSlowdown": "hardware thermal slowdown",
    "HwPowerBrakeSlowdown": "power brake",
}


class Gpu:
    """A CUDA device's readings. `unread` says why those that were asked for are None."""

    def __init__(self, device: str) -> None:
        self.device, self.unread = device, dict[str, str]()
        self._trouble = ""
        try:
            import pynvml

            pynvml.nvmlInit()
            self._nvml: Any = pynvml
            # A MIG instance, a part of a board, has memory and processes of its own, and shares clocks and power.
            self._handle, self._board = _find(pynvml, device)
            self._mig = _is_divided(pynvml, self._board)
        except Exception as error:
            self._trouble = _words(error)

    @property
    def sm_clock_mhz(self) -> int | None:
        """The clock that the multiprocessors run at."""
        return self._read(
            "sm_clock_mhz", lambda: int(self._nvml.nvmlDeviceGetClockInfo(self._board, self._nvml.NVML_CLOCK_SM))
        )

    @property
    def memory_clock_mhz(self) -> int | None:
        """The clock that the memory runs at."""
        return self._read(
            "memory_clock_mhz", lambda: int(self._nvml.nvmlDeviceGetClockInfo(self._board, self._nvml.NVML_CLOCK_MEM))
        )

    @property
    def default_clock_mhz(self) -> int | None:
        """The multiprocessors' clock by default, or where the driver knows none (any more), the highest."""
        return self._read(
            "default_clock_mhz",
            lambda: int(self._nvml.nvmlDeviceGetDefaultApplicationsClock(self._board, self._nvml.NVML_CLOCK_SM)),
            lambda: int(self._nvml.nvmlDeviceGetMaxClockInfo(self._board, self._nvml.NVML_CLOCK_SM)),
        )

    @property
    def throttle(self) -> tuple[str, ...] | None:
        """What holds the clock back now, in words; empty where nothing does."""
        bits = self._read(
            "throttle",
            lambda: int(self._nvml.nvmlDeviceGetCurrentClocksEventReasons(self._board)),
            lambda: int(self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._board)),  # drivers before 535
        )
        if bits is None:
            return None
        named = {words: int(getattr(self._nvml, f"nvmlClocksThrottleReason{name}")) for name, words in _REASONS.items()}
        return tuple(words for words, bit in named.items() if bits & bit)

    @property
    def temperature_c(self) -> int | None:
        """The temperature of the chip in degrees Celsius."""
        return self._read(
            "temperature_c",
            lambda: int(self._nvml.nvmlDeviceGetTemperature(self._board, self._nvml.NVML_TEMPERATURE_GPU)),
            lambda: int(self._nvml.nvmlDeviceGetTemperatureV(self._board, self._nvml.NVML_TEMPERATURE_GPU)),
        )

    @property
    def power_w(self) -> float | None:
        """The power that the board draws, in watts."""
        return self._read("power_w", lambda: int(self._nvml.nvmlDeviceGetPowerUsage(self._board)) / 1e3)

    @property
    def energy_j(self) -> float | None:
        """The board's energy counter, in joules since the driver was loaded; None for a part of a board."""
        return self._read("energy_j", self._energy_j)

    @property
    def process_bytes(self) -> int | None:
        """The memory that the driver has given to this process."""
        return self._read("process_bytes", self._process_bytes)

    @property
    def other_processes(self) -> int | None:
        """How many processes besides this one, which uses the GPU, compute on it."""
        return self._read("other_processes", lambda: len(self._processes()) - 1)

    def settings(self) -> dict[str, Option]:
        """Give what somebody chose for this GPU and what may change its figures."""
        power_limit = self._read(
            "power_limit_w", lambda: int(self._nvml.nvmlDeviceGetEnforcedPowerLimit(self._board)) / 1e3
        )
        ecc = self._read("ecc", lambda: bool(self._nvml.nvmlDeviceGetEccMode(self._board)[0]))
        persistence = self._read("persistence", lambda: bool(self._nvml.nvmlDeviceGetPersistenceMode(self._board)))
        return {"power_limit_w": power_limit, "ecc": ecc, "persistence": persistence}

    def unread_facts(self) -> dict[str, Option]:
        """Give the fact `nvml_unread`: which readings are null, and why; nothing where all could be read."""
        named: dict[str, list[str]] = {}
        for name, reason in self.unread.items():
            named.setdefault(reason, []).append(name)
        told = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in named.items())
        return {"nvml_unread": told} if told else {}

    def _read(self, name: str, *ways: Callable[[], T]) -> T | None:
        """Ask in one way after another; where none answers, keep the last reason."""
        reason = self._trouble
        for ask in () if reason else ways:
            try:
                return ask()
            except Exception as error:
                reason = _words(error)
        self.unread.setdefault(name, reason)
        return None

    def _energy_j(self) -> float:
        if self._mig:
            raise LookupError("the board is divided (MIG), and its one energy counter is that of all instances")
        return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._board)) / 1e3

    def _process_bytes(self) -> int:
        pid = os.getpid()
        used = {process.pid: process.usedGpuMemory for process in self._processes()}
        if pid not in used:
            raise LookupError(f"NVML lists no process {pid} (inside a PID namespace it has another number)")
        if used[pid] is None:
            raise LookupError("the driver does not tell a process's memory")
        return int(used[pid])

    def _processes(self) -> list[Any]:
        found = list(self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle))
        if not found:
            raise LookupError("NVML lists no process, not even this one (it is inside a container)")
        return found


def _find(nvml: Any, device: str) -> tuple[Any, Any]:
    """Find a CUDA device, and the board that it is (a part of).

    By UUID, for NVML counts devices that CUDA_VISIBLE_DEVICES hides; that variable names a MIG instance.
    """
    own = torch.cuda.get_device_properties(device).uuid
    index = int(device.partition(":")[2] or 0)
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[index : index + 1]
    for uuid in (*(name.strip() for name in chosen if name.strip().startswith("MIG-")), f"MIG-{own}"):
        with suppress(Exception):  # there is no instance of this name: a whole board, if any
            handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
            return handle, nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
    handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{own}")
    return handle, handle


def _is_divided(nvml: Any, board: Any) -> bool:
    with suppress(Exception):  # a board that knows no MIG says so by an error
        return bool(nvml.nvmlDeviceGetMigMode(board)[0])
    return False


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
