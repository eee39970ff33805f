"""The machine's own rates: plausible, in time, and null with a reason where they cannot be had."""

import time
from contextlib import closing

import pytest

from attnbench.contracts.record import Rates
from attnbench.execute.local import LocalExecutor
from attnbench.execute.messages import MeasureRates
from attnbench.measure import rates


def test_rates_are_measured_in_a_child_within_seconds() -> None:
    with closing(LocalExecutor()) as executor:
        executor.ask(MeasureRates(device="mps", threads=1, dtypes=()), Rates)  # starts the server
        started = time.monotonic()
        found = executor.ask(MeasureRates(device="cpu", threads=1, dtypes=("float32", "bfloat16")), Rates)
    assert time.monotonic() - started < 20  # 2 s on a machine that does nothing else
    assert found.bytes_per_s is not None
    assert 1e8 < found.bytes_per_s < 1e13
    assert {dtype: bool(rate and 1e8 < rate < 1e15) for dtype, rate in found.flops_per_s.items()} == {
        "float32": True,
        "bfloat16": True,
    }
    assert (found.device, found.threads, found.reason) == ("cpu", 1, "")


def test_the_best_of_several_calls_counts_and_the_first_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    takes = iter([9.0, 0.3, 0.1, 0.2, 0.4, 0.0])
    monkeypatch.setattr(rates.time, "perf_counter", lambda: now[0])

    def call() -> None:
        now[0] += next(takes)

    assert rates.best_s(call, "cpu", budget_s=0.5) == pytest.approx(0.1)
    assert list(takes) == [0.4, 0.0]  # no further call once the time is used


def test_what_fails_is_null_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(_device: str) -> float:
        raise MemoryError("none left")

    monkeypatch.setattr(rates, "bandwidth", no_memory)
    monkeypatch.setattr(rates, "_CPU_SIZES", (64,))
    found = rates.measure("cpu", threads=1, dtypes=("float32",))
    assert found.bytes_per_s is None
    assert found.flops_per_s["float32"]
    assert found.reason.startswith("bandwidth: ")


def test_a_device_without_a_clock_is_not_measured() -> None:
    found = rates.measure("mps", threads=1, dtypes=("float32",))
    assert (found.bytes_per_s, found.flops_per_s, found.reason) == (None, {}, "mps is not measured yet")
