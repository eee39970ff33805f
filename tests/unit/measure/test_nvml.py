"""What NVML tells of a GPU, from an NVML made by hand: each reading, and how each degrades."""

import os
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from attnbench.measure import nvml
from helpers import simulated_nvml
from helpers.simulated_nvml import IDLE, POWER_CAP, THERMAL, Board
from helpers.subtests import as_subtests

READINGS = (
    "sm_clock_mhz",
    "memory_clock_mhz",
    "default_clock_mhz",
    "throttle",
    "temperature_c",
    "power_w",
    "energy_j",
    "process_bytes",
    "other_processes",
)


@pytest.fixture
def gpu_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., nvml.Gpu]:
    """Return a device of UUID abc, on these boards."""

    def make(boards: dict[str, Board], **parts: object) -> nvml.Gpu:
        cuda = SimpleNamespace(get_device_properties=lambda _device: SimpleNamespace(uuid="abc"))
        monkeypatch.setattr(nvml, "torch", SimpleNamespace(cuda=cuda))
        monkeypatch.setitem(sys.modules, "pynvml", simulated_nvml.nvml(boards, **parts))
        return nvml.Gpu("cuda:0")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return make


def test_every_reading_of_a_gpu_is_in_its_unit(gpu_of: Callable) -> None:
    mine = (os.getpid(), 3 << 30)
    gpu = gpu_of({"GPU-abc": Board(bits=IDLE | POWER_CAP, energy_mj=lambda: 2_500, processes=[mine, (1, 1 << 20)])})
    assert {name: getattr(gpu, name) for name in READINGS} == {
        "sm_clock_mhz": 1980,
        "memory_clock_mhz": 3201,
        "default_clock_mhz": 1980,
        "throttle": ("power cap",),
        "temperature_c": 41,
        "power_w": 512.3,
        "energy_j": 2.5,
        "process_bytes": 3 << 30,
        "other_processes": 1,
    }
    assert gpu.settings() == {"power_limit_w": 700.0, "ecc": True, "persistence": False}
    assert gpu.unread_facts() == {}


def test_a_gpu_is_found_by_its_uuid_among_others(gpu_of: Callable) -> None:
    assert gpu_of({"GPU-xyz": Board(clock_mhz=1), "GPU-abc": Board(clock_mhz=2)}).sm_clock_mhz == 2


def test_without_nvml_every_reading_is_null_and_one_reason_is_kept(
    gpu_of: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_of({})
    monkeypatch.setitem(sys.modules, "pynvml", None)
    gpu = nvml.Gpu("cuda:0")
    assert {getattr(gpu, name) for name in READINGS} == {None}
    assert set(gpu.settings().values()) == {None}
    (reason,) = set(gpu.unread.values())
    assert "pynvml" in reason
    assert gpu.unread_facts()["nvml_unread"].endswith(reason)


def test_a_gpu_that_nvml_does_not_know_costs_only_the_readings(gpu_of: Callable) -> None:
    gpu = gpu_of({"GPU-other": Board()})
    assert gpu.sm_clock_mhz is None
    assert gpu.unread == {"sm_clock_mhz": "NVMLError: Not Supported"}


def test_readings_that_fail_for_one_reason_are_told_together(gpu_of: Callable) -> None:
    gpu = gpu_of({"GPU-abc": Board(clock_mhz=None, bits=None)})
    assert (gpu.sm_clock_mhz, gpu.throttle, gpu.temperature_c) == (None, None, 41)
    assert gpu.unread_facts() == {"nvml_unread": "sm_clock_mhz, throttle: NVMLError: Not Supported"}


@as_subtests("default, expected", [(1095, 1095), (None, 1410)])
def test_a_gpu_without_a_default_clock_is_held_against_its_highest(
    gpu_of: Callable, default: int | None, expected: int
) -> None:
    assert gpu_of({"GPU-abc": Board(default_mhz=default, highest_mhz=1410)}).default_clock_mhz == expected


def test_a_driver_without_the_newer_name_of_the_reasons_is_asked_by_the_older(
    gpu_of: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = gpu_of({"GPU-abc": Board(bits=THERMAL)})
    monkeypatch.delattr(sys.modules["pynvml"], "nvmlDeviceGetCurrentClocksEventReasons")
    assert gpu.throttle == ("hardware thermal slowdown",)


@as_subtests("named", [True, False])
def test_a_mig_instance_has_its_own_memory_and_its_boards_clock_and_no_energy(
    gpu_of: Callable, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    board = Board(clock_mhz=1700, divided=True)
    part = Board(clock_mhz=None, processes=[(os.getpid(), 77)])
    if named:  # older versions of CUDA give an instance its board's UUID
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-123")
    gpu = gpu_of({"GPU-abc": board}, instances={"MIG-123" if named else "MIG-abc": (part, board)})
    assert (gpu.sm_clock_mhz, gpu.process_bytes, gpu.energy_j) == (1700, 77, None)
    assert "divided" in gpu.unread["energy_j"]


def test_the_energy_of_a_divided_board_is_never_taken_for_that_of_a_part(gpu_of: Callable) -> None:
    gpu = gpu_of({"GPU-abc": Board(divided=True, energy_mj=lambda: 5)})
    assert gpu.energy_j is None
    assert "all instances" in gpu.unread["energy_j"]


def test_of_several_visible_devices_the_one_of_its_number_is_meant(
    gpu_of: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board(divided=True)
    parts = {f"MIG-{name}": (Board(processes=[(os.getpid(), size)]), board) for name, size in (("a", 1), ("b", 2))}
    gpu_of({"GPU-abc": board}, instances=parts)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-a, MIG-b")
    assert nvml.Gpu("cuda:1").process_bytes == 2


@as_subtests(
    "processes, reason",
    [
        ([], "inside a container"),
        ([(0, 5)], "lists no process"),
        ([(os.getpid(), None)], "does not tell a process's memory"),
        (None, "Not Supported"),
    ],
)
def test_memory_that_nvml_does_not_tell_of_a_process_is_null_with_the_reason(
    gpu_of: Callable, processes: list | None, reason: str
) -> None:
    gpu = gpu_of({"GPU-abc": Board(processes=processes)})
    assert gpu.process_bytes is None
    assert reason in gpu.unread["process_bytes"]


def test_in_a_pid_namespace_one_of_the_processes_is_this_one_under_another_number(gpu_of: Callable) -> None:
    assert gpu_of({"GPU-abc": Board(processes=[(0, 1)])}).other_processes == 0


def test_the_names_and_bits_are_those_of_the_real_nvml() -> None:
    pynvml = pytest.importorskip("pynvml")
    made = simulated_nvml.nvml({})
    for name, value in vars(made).items():
        if name.startswith(("nvml", "NVML")):
            real = getattr(pynvml, name)
            assert callable(real) if callable(value) else real == value, name
    assert {f"nvmlClocksThrottleReason{name}" for name in nvml._REASONS} <= set(vars(made))
