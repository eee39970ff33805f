"""How fast a CUDA device's clock ran around a block of samples, and what held it back, as NVML tells."""

from typing import Any

import torch

from attnbench.case import Option

# NVML's names for why a clock is lower than asked for; idling and a clock set on purpose are no such reasons.
_REASONS = {
    "SwPowerCap": "power cap",
    "HwSlowdown": "hardware slowdown",
    "SyncBoost": "sync boost",
    "SwThermalSlowdown": "software thermal slowdown",
    "HwThermalSlowdown": "hardware thermal slowdown",
    "HwPowerBrakeSlowdown": "power brake",
}


class Clocks:
    """Read a device's throttle reasons now, and with its clock again when the block is over."""

    def __init__(self, device: str) -> None:
        self._trouble = ""
        self._nvml: Any = None
        try:
            import pynvml

            pynvml.nvmlInit()
            self._nvml = pynvml
            # By its UUID: NVML counts devices that CUDA_VISIBLE_DEVICES hides.
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
            self._before = self._throttled()
        except Exception as error:
            self._trouble = f"{type(error).__name__}: {error}"

    def facts(self) -> dict[str, Option]:
        """Give `sm_clock_mhz` and `throttle` ('' where nothing held the clock back), or nulls and `clocks_unread`."""
        if not self._trouble:
            try:
                clock_mhz = int(self._nvml.nvmlDeviceGetClockInfo(self._handle, self._nvml.NVML_CLOCK_SM))
                throttle = ", ".join(dict.fromkeys([*self._before, *self._throttled()]))
            except Exception as error:
                self._trouble = f"{type(error).__name__}: {error}"
            else:
                return {"sm_clock_mhz": clock_mhz, "throttle": throttle}
        return {"sm_clock_mhz": None, "throttle": None, "clocks_unread": self._trouble}

    def _throttled(self) -> list[str]:
        bits = int(self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle))
        return [words for name, words in _REASONS.items() if bits & self._bit(name)]

    def _bit(self, name: str) -> int:
        return int(getattr(self._nvml, f"nvmlClocksThrottleReason{name}"))
