"""The energy probe on a simulated GPU whose counter follows its power, and its refusals where there is none."""

import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from attnbench.contracts.record import Job, Outcome
from attnbench.contracts.variant import Unsupported
from attnbench.measure import energy, nvml
from helpers import simulated_nvml
from helpers.planted import job
from helpers.simulated_cuda import US, Device
from helpers.simulated_nvml import POWER_CAP, THERMAL, Board
from helpers.subtests import as_subtests

WATTS = 500
SECOND = 1_000_000 * US


def planned(device: str = "cuda:1", **protocol: object) -> Job:
    base = job(kind="energy")
    return replace(base, case=replace(base.case, device=device), protocol=replace(base.protocol, **protocol))


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Measure a simulated device's call on a board that draws 500 W."""

    def run(device: Device, *, signs: list[str] | None = None, profile: str = "default", **board: object) -> Outcome:
        def counter() -> int:
            assert device.idle_at <= device.now, "the counter is read when the work is done"
            return round(device.now * 1e-9 * WATTS * 1e3)

        cuda = SimpleNamespace(get_device_properties=lambda _device: SimpleNamespace(uuid="abc"))
        monkeypatch.setattr(nvml, "torch", SimpleNamespace(cuda=cuda))
        known = Board(**{"energy_mj": counter} | board)
        monkeypatch.setitem(sys.modules, "pynvml", simulated_nvml.nvml({"GPU-abc": known}))
        monkeypatch.setattr(energy, "torch", device.torch)
        monkeypatch.setattr(energy, "time", device.time)
        workload = SimpleNamespace(
            calls=lambda count: [device.call] * count, differentiates=False, judge=lambda: None, backend="simulated"
        )
        monkeypatch.setattr(energy, "Workload", SimpleNamespace(of=lambda _job: workload))
        return energy.measure(planned(profile=profile), (signs if signs is not None else []).append)

    return run


@as_subtests("call_us", [20, 100, 30_000, 700_000])
def test_joules_per_call_are_power_times_the_time_of_a_call(measure: Callable, call_us: int) -> None:
    outcome = measure(Device(device_ns=call_us * US))
    (found,) = outcome.measurements
    assert (found.metric, found.unit, len(found.values)) == ("energy", "J", 3)
    assert found.values == pytest.approx([WATTS * call_us * 1e-6] * 3, rel=2e-3)
    assert outcome.facts["average_power_w"] == pytest.approx(WATTS, abs=0.1)
    assert outcome.backend == "simulated"


def test_a_window_lasts_five_seconds_at_least_and_the_device_never_waits(measure: Callable) -> None:
    device = Device()
    outcome = measure(device)
    assert 5.0 <= outcome.facts["window_s"] < 5.3
    assert device.busy_ns > 0.99 * device.now


def test_no_more_than_a_few_tenths_of_a_second_of_calls_are_queued(measure: Callable) -> None:
    device = Device(host_ns=1 * US, device_ns=50 * US)
    measure(device)
    assert device.most_queued_ns < 0.3 * SECOND


def test_each_window_is_told_so_that_a_long_one_is_no_silence(measure: Callable) -> None:
    signs: list[str] = []
    measure(Device(), signs=signs)
    assert signs == ["window 1 of 3", "window 2 of 3", "window 3 of 3"]


def test_the_quick_profile_has_one_window(measure: Callable) -> None:
    assert len(measure(Device(), profile="quick").measurements[0].values) == 1


def test_calls_beyond_the_cap_have_one_window(measure: Callable) -> None:
    outcome = measure(Device(device_ns=6 * SECOND))
    assert outcome.measurements[0].values == (pytest.approx(WATTS * 6),)


def test_a_first_call_that_compiles_leaves_batches_long_enough(measure: Callable) -> None:
    device = Device(device_ns=100 * US)
    slow = iter([10 * SECOND])
    call = device.call
    device.call = lambda: (setattr(device, "now", device.now + next(slow, 0)), call())
    outcome = measure(device)
    assert outcome.measurements[0].values == pytest.approx([WATTS * 1e-4] * 3, rel=2e-3)
    assert device.log.count("synchronise") < 1000


@as_subtests("others, flags", [(0, ()), (2, ("shared_device",))])
def test_other_processes_on_the_gpu_are_flagged(measure: Callable, others: int, flags: tuple[str, ...]) -> None:
    outcome = measure(Device(), processes=[(number, 1) for number in range(others + 1)])
    assert outcome.measurements[0].flags == flags


def test_a_low_clock_is_flagged_and_heat_leaves_no_figure(measure: Callable) -> None:
    capped = measure(Device(), clock_mhz=1000, bits=POWER_CAP)
    assert capped.measurements[0].flags == ("throttled",)
    hot = measure(Device(), bits=THERMAL)
    assert (hot.status, hot.measurements, hot.facts["invalid_blocks"]) == ("error", (), 3)
    assert "hardware thermal slowdown" in hot.detail


def test_a_window_that_began_hot_is_left_out(measure: Callable) -> None:
    device = Device()
    outcome = measure(device, bits=lambda: THERMAL if device.now < 2 * SECOND else 0)
    assert outcome.facts["invalid_blocks"] == 1
    assert len(outcome.measurements[0].values) == 2


@as_subtests(
    "board, reason",
    [
        ({"energy_mj": None}, "cannot be read: NVMLError: Not Supported"),
        ({"divided": True}, "cannot be read: LookupError: the board is divided"),
        ({"energy_mj": lambda: 7_000}, "stood still for 5 s of work"),
    ],
)
def test_a_gpu_without_a_counter_of_its_own_is_refused_with_the_reason(
    measure: Callable, board: dict, reason: str
) -> None:
    with pytest.raises(Unsupported, match=reason):
        measure(Device(), **board)


@as_subtests("device", ["cpu", "mps"])
def test_where_no_counter_is_known_energy_is_refused_and_never_guessed(device: str) -> None:
    with pytest.raises(Unsupported, match=f"for {device} there is none"):
        energy.measure(planned(device), lambda _text: None)
