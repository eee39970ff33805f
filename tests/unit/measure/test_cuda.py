"""The CUDA clock on a simulated device: what is asked of it, in which order, and what comes of it."""

import gc
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from msgspec.structs import replace

from attnbench.contracts.record import Outcome, Protocol
from attnbench.measure import failure, latency, nvml, timing
from attnbench.measure.sampling import sample
from helpers import simulated_nvml
from helpers.planted import job
from helpers.simulated_cuda import US, Device
from helpers.simulated_nvml import POWER_CAP, THERMAL, Board, Unread
from helpers.subtests import as_subtests


@pytest.fixture
def timer_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., timing.CudaTimer]:
    def make(device: Device, *, hot: bool = False, synchronises: bool = False) -> timing.CudaTimer:
        monkeypatch.setattr(timing, "torch", device.torch)
        monkeypatch.setattr(timing, "perf_counter_ns", device.time.perf_counter_ns)

        def prepare(count: int) -> list[Callable[[], None]]:
            device.log.append(f"prepare {count}")
            return [device.call] * count

        return timing.CudaTimer(prepare, lambda out: None, "cuda:1", hot=hot, synchronises=synchronises)

    return make


def test_a_cold_sample_prepares_flushes_spins_and_brackets_its_call_with_events(timer_of: Callable) -> None:
    device = Device()
    assert timer_of(device).run(1) == device.device_ns
    assert device.log == [
        "allocate 256 MiB on cuda:1",
        "prepare 1",
        "flush",
        "event",
        "spin",
        "event",
        "call",
        "event",
        "synchronise",
    ]


def test_hot_samples_are_not_flushed_and_synchronising_calls_wait_for_no_spin(timer_of: Callable) -> None:
    device = Device()
    timer_of(device, hot=True, synchronises=True).run(2)
    assert device.log == ["prepare 2", "event", "event", "call", "call", "event", "synchronise"]


def test_every_cold_sample_is_a_single_call_and_hot_ones_are_grouped(timer_of: Callable) -> None:
    short = {"device_ns": 2 * US, "host_ns": US}
    protocol = Protocol(min_time_s=0.2)
    assert sample(timer_of(Device(**short)).clock, protocol).group == 1
    assert sample(timer_of(Device(**short), hot=True).clock, protocol).group > 1


@as_subtests("passes", ["forward", "backward"])
def test_no_pass_groups_cold_calls(timer_of: Callable, passes: str) -> None:
    planned = job()
    planned = replace(planned, case=replace(planned.case, passes=passes))
    assert latency._bounded(timer_of(Device()).clock, planned).most_grouped == 1


@as_subtests("host_us", [1, 200, 3000])
def test_the_spin_outlasts_what_the_host_needs_to_queue_a_call(timer_of: Callable, host_us: int) -> None:
    device = Device(host_ns=host_us * US)
    timer = timer_of(device)
    found = [timer.run(1) for _ in range(4)]
    assert found[-1] == device.device_ns
    assert device.spins[-1] >= 1.5 * device.host_ns * 0.99
    assert device.spins[-1] <= max(50 * US, 1.5 * device.host_ns) * 1.01
    assert timer.flags(2) == ()


def test_a_spin_is_at_most_ten_milliseconds_and_what_it_cannot_hide_is_flagged(timer_of: Callable) -> None:
    device = Device(host_ns=50_000 * US)
    timer = timer_of(device)
    found = [timer.run(1) for _ in range(4)]
    assert max(device.spins) <= 10_000 * US * 1.3  # the first spin's rate is a guess
    assert found[-1] > 100 * device.device_ns
    assert timer.flags(2) == ("launch_bound",)


def test_a_host_that_is_late_by_little_of_a_long_call_is_not_flagged(timer_of: Callable) -> None:
    device = Device(host_ns=12_000 * US, device_ns=1_000_000 * US)
    timer = timer_of(device)
    for _ in range(3):
        timer.run(1)
    assert timer.flags(2) == ()


def test_wall_time_holds_the_launch_and_no_spin_and_no_flush(timer_of: Callable) -> None:
    device = Device(host_ns=7 * US, device_ns=100 * US)
    assert timer_of(device).wall(1) == 107 * US
    assert device.log[1:] == ["prepare 1", "flush", "synchronise cuda:1", "call", "synchronise cuda:1"]


def test_wall_samples_are_few(timer_of: Callable) -> None:
    protocol = Protocol()
    assert latency._walls(timer_of(Device()), 1, protocol) == (105 * US,) * protocol.min_samples


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Measure the latency of a simulated device's call, watched by a simulated NVML."""

    def run(device: Device, **board: object) -> Outcome:
        cuda = SimpleNamespace(get_device_properties=lambda _device: SimpleNamespace(uuid="abc"))
        monkeypatch.setattr(nvml, "torch", SimpleNamespace(cuda=cuda))
        monkeypatch.setitem(sys.modules, "pynvml", simulated_nvml.nvml({"GPU-abc": Board(**board)}))
        monkeypatch.setattr(timing, "torch", device.torch)
        monkeypatch.setattr(timing, "perf_counter_ns", device.time.perf_counter_ns)
        workload = SimpleNamespace(
            calls=lambda count: [device.call] * count,
            support=SimpleNamespace(synchronises=False),
            differentiates=False,
            judge=lambda: None,
            keep=lambda _out: None,
            backend="simulated",
        )
        monkeypatch.setattr(latency, "Workload", SimpleNamespace(of=lambda _job: workload))
        # A simulated call is made of no operations that could be counted.
        monkeypatch.setattr(latency, "counting", SimpleNamespace(counts=lambda *_args, **_named: {}))
        done = {name: lambda *_args, **_named: None for name in ("check_rest", "check_tools", "check")}
        untouched = SimpleNamespace(tasks=int, **done)
        monkeypatch.setattr(latency, "honesty", untouched)
        planned = job()
        return latency.measure(replace(planned, case=replace(planned.case, device="cuda:1")), lambda _text: None)

    return run


def test_device_time_and_wall_time_are_stored_with_the_clock_that_they_were_measured_at(measure: Callable) -> None:
    outcome = measure(Device())
    values = {one.metric: set(one.values) for one in outcome.measurements}
    assert values == {"latency": {100 * US}, "first_call": {100 * US}, "latency_wall": {105 * US}}
    assert outcome.facts["sm_clock_mhz"] == 1980
    assert (outcome.facts["discarded"], outcome.facts["invalid_blocks"], outcome.facts["throttle"]) == (0, 0, "")
    assert outcome.facts["warmup_ns"] >= 50_000 * US
    assert {"cpu_mhz_before", "cpu_mhz", "load_before", "load"} <= outcome.facts.keys()


def test_a_call_measured_once_has_no_wall_time(measure: Callable) -> None:
    device = Device(device_ns=6_000_000 * US)
    outcome = measure(device)
    assert {one.metric for one in outcome.measurements} == {"latency", "first_call"}
    assert (outcome.facts["stop"], device.log.count("call")) == ("once", 2)


def test_samples_at_a_low_clock_are_left_out_and_counted(measure: Callable) -> None:
    device = Device()
    # The clock falls for a tenth of a second, and the calls meanwhile take longer.
    outcome = measure(device, clock_mhz=lambda: 600 if 150_000 * US < device.now < 250_000 * US else 1980)
    (latencies, *_) = outcome.measurements
    assert outcome.status == "ok"
    assert outcome.facts["discarded"] > 100
    assert outcome.facts["sm_clock_lowest_mhz"] == 600
    assert latencies.flags == ()


def test_a_clock_that_stays_low_gives_a_flagged_figure(measure: Callable) -> None:
    outcome = measure(Device(), clock_mhz=900, bits=POWER_CAP)
    assert "throttled" in outcome.measurements[0].flags
    assert outcome.facts["throttle"] == "power cap"


def test_a_gpu_that_is_too_hot_all_the_while_gives_no_figure_and_says_why(measure: Callable) -> None:
    outcome = measure(Device(), bits=THERMAL)
    assert (outcome.status, outcome.measurements) == ("error", ())
    assert "hardware thermal slowdown, 41 C" in outcome.detail
    assert outcome.facts["invalid_blocks"] > 10


def test_without_nvml_the_figure_is_the_same_and_the_facts_are_null_with_the_reason(
    measure: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "Gpu", Unread)
    outcome = measure(Device())
    assert set(outcome.measurements[0].values) == {100 * US}
    assert (outcome.facts["sm_clock_mhz"], outcome.facts["nvml_unread"][-9:]) == (None, "simulated")


@as_subtests(
    "told, status",
    [("CUDA error: an illegal memory access was encountered", "error"), ("CUDA error: GPU is lost", "device_lost")],
)
def test_an_error_that_every_later_call_meets_ends_the_job_with_its_own_words(
    measure: Callable, told: str, status: str
) -> None:
    device = Device()
    call, fails_at = device.call, iter([False] * 5)

    def faulty() -> None:
        call()
        if next(fails_at, True):  # a kernel's fault shows at the next wait, and at every one after it
            device.fault = RuntimeError(f"{told}\nCUDA kernel errors might be asynchronously reported")

    device.call = faulty
    with pytest.raises(RuntimeError) as caught:
        measure(device)
    assert failure.status_of(caught.value) == status
    assert failure.reason(caught.value).endswith(told)
    assert gc.isenabled()


def test_a_device_too_full_for_the_flush_says_whose_memory_it_was(timer_of: Callable) -> None:
    device = Device()

    def no_room(_size: int, **_options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 256.00 MiB.")

    device.empty = no_room
    with pytest.raises(torch.OutOfMemoryError) as caught:
        timer_of(device)
    assert failure.reason(caught.value).startswith("the buffer that flushes the L2 needed more")
