"""A simulated NVML: a module as `pynvml` is one, over boards whose readings a test sets."""

from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING

from attnbench.measure.nvml import Gpu

if TYPE_CHECKING:
    from collections.abc import Callable

# As NVML numbers them; a test holds them against the real module.
IDLE, POWER_CAP, HARDWARE, SYNC_BOOST, SOFTWARE_THERMAL, THERMAL, POWER_BRAKE = 0x1, 0x4, 0x8, 0x10, 0x20, 0x40, 0x80
_NAMES = {
    "SwPowerCap": POWER_CAP,
    "HwSlowdown": HARDWARE,
    "SyncBoost": SYNC_BOOST,
    "SwThermalSlowdown": SOFTWARE_THERMAL,
    "HwThermalSlowdown": THERMAL,
    "HwPowerBrakeSlowdown": POWER_BRAKE,
}


class NVMLError(Exception):
    """What every failing call of NVML raises."""


class Board:
    """One GPU. A reading that is None is not supported; `clock_mhz` and `bits` may be functions, asked each time."""

    def __init__(self, **readings: object) -> None:
        self.clock_mhz: int | Callable[[], int] | None = 1980
        self.bits: int | Callable[[], int] | None = 0
        self.default_mhz: int | None = 1980
        self.highest_mhz: int | None = 1980
        self.energy_mj: Callable[[], int] | None = lambda: 0
        self.processes: list[tuple[int, int | None]] | None = []
        self.divided = False
        vars(self).update(readings)


def nvml(boards: dict[str, Board], *, instances: dict[str, tuple[Board, Board]] | None = None) -> ModuleType:
    """Make the module: `boards` by UUID, and `instances` of MIG by UUID, each with the board that it is a part of."""
    module = ModuleType("pynvml")
    parts = instances or {}
    handles = boards | {uuid: part for uuid, (part, _) in parts.items()}
    functions = {
        "NVML_CLOCK_SM": 1,
        "NVML_CLOCK_MEM": 2,
        "NVML_TEMPERATURE_GPU": 0,
        "NVMLError": NVMLError,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByUUID": lambda uuid: supported(handles.get(uuid)),
        "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": lambda part: _board_of(part, parts),
        "nvmlDeviceGetMigMode": lambda board: [int(board.divided), int(board.divided)],
        "nvmlDeviceGetClockInfo": lambda board, kind: supported(board.clock_mhz) if kind == 1 else 3201,
        "nvmlDeviceGetDefaultApplicationsClock": lambda board, _kind: supported(board.default_mhz),
        "nvmlDeviceGetMaxClockInfo": lambda board, _kind: supported(board.highest_mhz),
        "nvmlDeviceGetCurrentClocksEventReasons": lambda board: supported(board.bits),
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda board: supported(board.bits),
        "nvmlDeviceGetTemperature": lambda _board, _sensor: 41,
        "nvmlDeviceGetTemperatureV": lambda _board, _sensor: 41,
        "nvmlDeviceGetPowerUsage": lambda _board: 512_300,
        "nvmlDeviceGetEnforcedPowerLimit": lambda _board: 700_000,
        "nvmlDeviceGetEccMode": lambda _board: [1, 1],
        "nvmlDeviceGetPersistenceMode": lambda _board: 0,
        "nvmlDeviceGetTotalEnergyConsumption": lambda board: supported(board.energy_mj),
        "nvmlDeviceGetComputeRunningProcesses": lambda board: [
            SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in supported(board.processes)
        ],
    }
    vars(module).update(functions, **{f"nvmlClocksThrottleReason{name}": bit for name, bit in _NAMES.items()})
    return module


def supported(reading: object) -> object:
    if reading is None:
        raise NVMLError("Not Supported")
    return reading() if callable(reading) else reading


def _board_of(part: Board, parts: dict[str, tuple[Board, Board]]) -> Board:
    for known, board in parts.values():
        if known is part:
            return board
    raise NVMLError("Invalid Argument")


class Unread(Gpu):
    """A GPU of which nothing can be read."""

    def __init__(self, device: str) -> None:
        self.device, self.unread, self._unavailable = device, {}, "simulated"
