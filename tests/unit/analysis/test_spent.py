"""Where the time of a run went."""

import pytest
from msgspec.structs import replace

from attnbench.analysis.spent import spent
from attnbench.contracts.record import ProbeKind, Record
from helpers.planted import job, ok


def record(start: float, seconds: float, *, kind: ProbeKind = "latency", calls_s: float | None = None) -> Record:
    outcome = ok() if calls_s is None else replace(ok(), facts={"calls_ns": round(calls_s * 1e9)})
    return Record(run="r", job=job(kind=kind), outcome=outcome, started_s=start, seconds=seconds)


def test_time_is_reported_by_kind_and_adds_up() -> None:
    found = spent([record(0, 2, calls_s=1.9), record(2.5, 1, kind="memory"), record(4, 3, calls_s=2.7)])
    assert found.by_kind == {"latency": 5, "memory": 1}
    assert found.between_s == pytest.approx(1.0)
    assert found.total_s == pytest.approx(7.0)
    assert found.calls_s == pytest.approx(4.6)
    assert found.around_s == pytest.approx(0.2)


def test_jobs_that_ran_at_once_share_their_time() -> None:
    found = spent([record(0, 10, kind="accuracy"), record(1, 11, kind="accuracy")])
    assert found.total_s == found.by_kind["accuracy"] == 12


def test_the_pause_before_a_run_is_resumed_is_not_time_spent() -> None:
    assert spent([record(0, 1), record(30_000, 1)]).total_s == 2


def test_the_sentence_names_every_kind() -> None:
    sentence = spent([record(0, 60, calls_s=59.95), record(60, 5, kind="accuracy")]).sentence()
    assert sentence == (
        "Time: latency 1 min 00 s (calls 1 min 00 s; a median of 50 ms around those of a job), training 5 s, "
        "between jobs 0 ms; 1 min 05 s in all"
    )


def test_a_run_without_jobs_took_no_time() -> None:
    assert spent([]).sentence() == "Time: between jobs 0 ms; 0 ms in all"
