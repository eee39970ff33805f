"""What a device's clock makes of the samples measured meanwhile, and what is told of the processors afterwards."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest

from attnbench.measure import clocks, nvml
from helpers import simulated_nvml
from helpers.simulated_nvml import HARDWARE, IDLE, POWER_BRAKE, POWER_CAP, SOFTWARE_THERMAL, SYNC_BOOST, THERMAL, Board
from helpers.subtests import as_subtests

UP, DOWN = 1980, 1484  # just below 75% of 1980


@pytest.fixture
def clocks_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., clocks.Clocks]:
    """Watch a board that gives these clocks and reasons, one a reading."""

    def make(mhz: Iterable[int] | None = None, bits: Iterable[int] = (), **readings: object) -> clocks.Clocks:
        turns, reasons = iter(mhz or ()), iter(bits)
        clock = (lambda: next(turns)) if mhz is not None else None
        board = Board(clock_mhz=clock, bits=lambda: next(reasons, 0), **readings)
        cuda = SimpleNamespace(get_device_properties=lambda _device: SimpleNamespace(uuid="abc"))
        monkeypatch.setattr(nvml, "torch", SimpleNamespace(cuda=cuda))
        monkeypatch.setitem(sys.modules, "pynvml", simulated_nvml.nvml({"GPU-abc": board}))
        return clocks.Clocks(nvml.Gpu("cuda:0"))

    return make


@as_subtests(
    "readings, verdicts",
    [
        ([UP, UP, UP], ["good", "good", "good"]),
        ([UP, DOWN, UP, UP], ["good", "slow", "slow", "good"]),
        ([345, UP, UP], ["slow", "slow", "good"]),
        ([1485, 1485], ["good", "good"]),
    ],
)
def test_a_block_is_slow_if_the_clock_was_below_three_quarters_of_the_default_at_either_bound(
    clocks_of: Callable, readings: list[int], verdicts: list[str]
) -> None:
    watched = clocks_of(readings)
    assert [watched.judge() for _ in readings] == verdicts


@as_subtests("bit", [HARDWARE, SOFTWARE_THERMAL, THERMAL, POWER_BRAKE])
def test_a_slowdown_by_heat_or_hardware_at_either_bound_makes_a_block_invalid(clocks_of: Callable, bit: int) -> None:
    watched = clocks_of([UP] * 4, [0, bit, 0, 0])
    assert [watched.judge() for _ in range(4)] == ["good", "invalid", "invalid", "good"]


@as_subtests("bit", [IDLE, POWER_CAP, SYNC_BOOST])
def test_other_reasons_count_only_by_the_clock_that_they_leave(clocks_of: Callable, bit: int) -> None:
    watched = clocks_of([UP, UP, DOWN], [bit, bit, bit])
    assert [watched.judge() for _ in range(3)] == ["good", "good", "slow"]


def test_a_clock_that_cannot_be_read_discards_nothing_and_is_never_steady(clocks_of: Callable) -> None:
    watched = clocks_of(None)
    assert [watched.judge(), watched.judge()] == ["good", "good"]
    assert [watched.steady(), watched.steady()] == [False, False]
    facts = watched.facts()
    assert (facts["sm_clock_mhz"], facts["sm_clock_lowest_mhz"]) == (None, None)
    assert "sm_clock_mhz" in facts["nvml_unread"]


def test_a_gpu_of_which_no_default_is_known_is_never_slow(clocks_of: Callable) -> None:
    watched = clocks_of([345, 345], default_mhz=None, highest_mhz=None)
    assert [watched.judge(), watched.judge()] == ["good", "good"]


def test_a_clock_is_steady_once_it_is_up_and_moves_no_more(clocks_of: Callable) -> None:
    watched = clocks_of([345, 345, 1600, 1900, 1930])
    assert [watched.steady() for _ in range(5)] == [False, False, False, False, True]


def test_the_facts_tell_clocks_reasons_and_temperatures_of_the_blocks(clocks_of: Callable) -> None:
    watched = clocks_of([345, UP, 1900, 1700], [IDLE, POWER_CAP, POWER_CAP | SYNC_BOOST])
    watched.steady()  # a reading of warm-up is none of a block
    for _ in range(3):
        watched.judge()
    facts = watched.facts()
    assert list(watched.gpu.unread) == ["other_processes"]
    assert facts == {
        "sm_clock_mhz": 1900,
        "sm_clock_lowest_mhz": 1700,
        "sm_clock_default_mhz": 1980,
        "memory_clock_mhz": 3201,
        "throttle": "power cap, sync boost",
        "temperature_before_c": 41,
        "temperature_c": 41,
        "power_w": 512.3,
        "other_processes": None,
        "power_limit_w": 700.0,
        "ecc": True,
        "persistence": False,
        "nvml_unread": watched.gpu.unread_facts()["nvml_unread"],
    }


def test_without_nvml_the_facts_are_null_and_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    watched = clocks.Clocks(nvml.Gpu("cuda:0"))
    assert watched.judge() == "good"
    facts = watched.facts()
    assert (facts["sm_clock_mhz"], facts["throttle"], facts["temperature_c"]) == (None, None, None)
    assert "pynvml" in facts["nvml_unread"]


def test_an_nvml_that_fails_in_the_middle_costs_only_its_readings(clocks_of: Callable) -> None:
    watched = clocks_of([UP])
    assert [watched.judge(), watched.judge()] == ["good", "good"]
    facts = watched.facts()
    assert facts["sm_clock_mhz"] == UP
    assert "StopIteration" in facts["nvml_unread"]


def test_the_host_tells_its_clock_and_its_load_where_it_can() -> None:
    state = clocks.host_state()
    assert state.keys() == {"cpu_mhz", "load"}
    assert state["load"] is None or state["load"] >= 0
    if "cpu MHz" in Path("/proc/cpuinfo").read_text():
        assert 100 < state["cpu_mhz"] < 10_000


def test_a_machine_without_proc_has_no_clock_and_no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_words: object) -> None:
        raise OSError

    monkeypatch.setattr(clocks.Path, "read_text", refuse)
    monkeypatch.delattr(clocks.os, "getloadavg")
    assert clocks.host_state() == {"cpu_mhz": None, "load": None}
