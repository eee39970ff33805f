"""Clocks as NVML tells them, from an NVML made by hand."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from attnbench.measure import clocks

IDLE, POWER, THERMAL = 0x1, 0x4, 0x40  # as NVML numbers them


def nvml(*bits: int) -> ModuleType:
    """Make an NVML whose one device gives these reasons, one a reading."""
    readings = list(bits)
    module = ModuleType("pynvml")
    named = {name: 1 << (place + 2) for place, name in enumerate(clocks._REASONS)}
    functions = {
        "NVML_CLOCK_SM": 1,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
        "nvmlDeviceGetClockInfo": lambda handle, kind: {("GPU-abc", 1): 1980}[handle, kind],
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda handle: {"GPU-abc": readings}[handle].pop(0),
    }
    vars(module).update(functions, **{f"nvmlClocksThrottleReason{name}": bit for name, bit in named.items()})
    return module


@pytest.fixture(autouse=True)
def _one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(get_device_properties=lambda device: SimpleNamespace(uuid="abc"))
    monkeypatch.setattr(clocks, "torch", SimpleNamespace(cuda=cuda))


@pytest.mark.parametrize(
    ("before", "after", "throttle"),
    [
        (IDLE, 0, ""),
        (IDLE, POWER, "power cap"),
        (THERMAL, POWER | THERMAL, "hardware thermal slowdown, power cap"),
    ],
)
def test_reasons_before_and_after_a_block_are_stored_with_its_clock(
    monkeypatch: pytest.MonkeyPatch, before: int, after: int, throttle: str
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml(before, after))
    assert clocks.Clocks("cuda:0").facts() == {"sm_clock_mhz": 1980, "throttle": throttle}


def test_without_nvml_the_facts_are_null_and_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    facts = clocks.Clocks("cuda:0").facts()
    assert facts["sm_clock_mhz"] is None
    assert facts["throttle"] is None
    assert "pynvml" in str(facts["clocks_unread"])


def test_an_nvml_that_fails_after_the_block_costs_only_its_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml(IDLE))
    facts = clocks.Clocks("cuda:0").facts()
    assert (facts["sm_clock_mhz"], facts["clocks_unread"]) == (None, "IndexError: pop from empty list")


def test_the_names_of_the_reasons_are_those_of_the_real_nvml() -> None:
    pynvml = pytest.importorskip("pynvml")
    for name in clocks._REASONS:
        assert getattr(pynvml, f"nvmlClocksThrottleReason{name}") > 1
    assert callable(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons)
