"""Readings of an NVIDIA GPU by its driver's library (NVML): each a value, or None with the reason recorded.

Nothing here raises, and nothing changes a setting of the GPU.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import torch

from attnbench.contracts.case import Option

T = TypeVar("T")

# NVML's names for what lowers a clock, without idling and a clock that was set on purpose.
_REASONS = {
    "SwPowerCap": "power cap",
    "HwSlowdown": "hardware slowdown",
    "SyncBoost": "sync boost",
    "SwThermalSlowdown": "software thermal slowdown",
    "HwThermalSlowdown": "hardware thermal slowdown",
    "HwPowerBrakeSlowdown": "power brake",
}


class Gpu:
    """A CUDA device's readings. `unread` has the reasons of those that are None, by name."""

    def __init__(self, device: str) -> None:
        self.device, self.unread = device, dict[str, str]()
        self._unavailable = ""  # why NVML cannot be used at all
        try:
            import pynvml

            pynvml.nvmlInit()
            self._nvml: Any = pynvml
            # A MIG instance, a part of a board, has its own memory and processes; clocks and power are the board's.
            self._handle, self._board = _find(pynvml, device)
            self._mig = _is_divided(pynvml, self._board)
        except Exception as error:
            self._unavailable = _message(error)

    @property
    def sm_clock_mhz(self) -> int | None:
        """The clock of the multiprocessors."""
        return self._read(
            "sm_clock_mhz", lambda: int(self._nvml.nvmlDeviceGetClockInfo(self._board, self._nvml.NVML_CLOCK_SM))
        )

    @property
    def memory_clock_mhz(self) -> int | None:
        """The clock of the memory."""
        return self._read(
            "memory_clock_mhz", lambda: int(self._nvml.nvmlDeviceGetClockInfo(self._board, self._nvml.NVML_CLOCK_MEM))
        )

    @property
    def default_clock_mhz(self) -> int | None:
        """The multiprocessors' default clock, or their maximum where the driver no longer has a default."""
        return self._read(
            "default_clock_mhz",
            lambda: int(self._nvml.nvmlDeviceGetDefaultApplicationsClock(self._board, self._nvml.NVML_CLOCK_SM)),
            lambda: int(self._nvml.nvmlDeviceGetMaxClockInfo(self._board, self._nvml.NVML_CLOCK_SM)),
        )

    @property
    def throttle(self) -> tuple[str, ...] | None:
        """The reasons that the clock is throttled now; empty if it is not."""
        bits = self._read(
            "throttle",
            lambda: int(self._nvml.nvmlDeviceGetCurrentClocksEventReasons(self._board)),
            lambda: int(self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._board)),  # drivers before 535
        )
        if bits is None:
            return None
        masks = {text: int(getattr(self._nvml, f"nvmlClocksThrottleReason{name}")) for name, text in _REASONS.items()}
        return tuple(text for text, mask in masks.items() if bits & mask)

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
        """The board's energy counter, in joules since the driver was loaded; None for a MIG instance."""
        return self._read("energy_j", self._energy_j)

    @property
    def process_bytes(self) -> int | None:
        """The memory that the driver has allocated to this process."""
        return self._read("process_bytes", self._process_bytes)

    @property
    def other_processes(self) -> int | None:
        """The number of other processes that compute on the GPU, given that this one does."""
        return self._read("other_processes", lambda: len(self._processes()) - 1)

    def settings(self) -> dict[str, Option]:
        """Return the GPU's settings that may change a measurement."""
        power_limit = self._read(
            "power_limit_w", lambda: int(self._nvml.nvmlDeviceGetEnforcedPowerLimit(self._board)) / 1e3
        )
        ecc = self._read("ecc", lambda: bool(self._nvml.nvmlDeviceGetEccMode(self._board)[0]))
        persistence = self._read("persistence", lambda: bool(self._nvml.nvmlDeviceGetPersistenceMode(self._board)))
        return {"power_limit_w": power_limit, "ecc": ecc, "persistence": persistence}

    def unread_facts(self) -> dict[str, Option]:
        """Return the fact `nvml_unread`, the readings that are null and why; nothing if all could be read."""
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.unread.items():
            by_reason.setdefault(reason, []).append(name)
        unread = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())
        return {"nvml_unread": unread} if unread else {}

    def _read(self, name: str, *queries: Callable[[], T]) -> T | None:
        """Return the result of the first query that succeeds; if none does, record the last reason."""
        reason = self._unavailable
        for query in () if reason else queries:
            try:
                return query()
            except Exception as error:
                reason = _message(error)
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
        processes = list(self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle))
        if not processes:
            raise LookupError("NVML lists no process, not even this one (it is inside a container)")
        return processes


def _find(nvml: Any, device: str) -> tuple[Any, Any]:
    """Return the handles of a CUDA device, and of the board that it is, or is a part of.

    By UUID, as NVML's indices count devices that CUDA_VISIBLE_DEVICES hides; that variable may name a MIG instance.
    """
    own = torch.cuda.get_device_properties(device).uuid
    index = int(device.partition(":")[2] or 0)
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[index : index + 1]
    for uuid in (*(name.strip() for name in chosen if name.strip().startswith("MIG-")), f"MIG-{own}"):
        with suppress(Exception):  # no instance has this name: the device is a whole board
            handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
            return handle, nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
    handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{own}")
    return handle, handle


def _is_divided(nvml: Any, board: Any) -> bool:
    with suppress(Exception):  # a board without MIG raises
        return bool(nvml.nvmlDeviceGetMigMode(board)[0])
    return False


def _message(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
