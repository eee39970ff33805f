"""Whatever a mechanism does to its process, it is a record with a reason, and the next case is measured."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from attnbench.contracts.case import Shape
from attnbench.contracts.record import Outcome, ProbeKind
from attnbench.execute.executor import Finished
from attnbench.execute.local import LocalExecutor
from helpers.planted import job
from helpers.processes import running

PLUGINS = Path(__file__).parent.parent / "plugins" / "faulty.py"
SMALL = Shape(batch=1, heads=2, kv_heads=2, seq_q=64, seq_k=64, head_dim=16)


@pytest.fixture(scope="module")
def executor() -> Iterator[LocalExecutor]:
    with closing(LocalExecutor(memory_bytes=1 << 30)) as one:
        yield one


def outcome_of(executor: LocalExecutor, name: str, *, kind: ProbeKind = "latency", timeout_s: float = 60.0) -> Outcome:
    """Run a misbehaving mechanism, then a good one on the same server: that one must be measured."""
    planned = job(name, kind=kind)
    protocol = replace(planned.protocol, timeout_s=timeout_s, min_time_s=0.01, cap_s=0.5)
    bad = replace(planned, case=replace(planned.case, shape=SMALL), protocol=protocol, target=f"{PLUGINS}:{name}")
    good = replace(
        bad,
        case=replace(bad.case, variant="Good"),
        probe=replace(bad.probe, kind="memory"),  # the quickest to measure
        protocol=replace(protocol, timeout_s=60.0),
        target=f"{PLUGINS}:Good",
    )
    found = [event for event in executor.run(iter([bad, good])) if isinstance(event, Finished)]
    assert found[1].outcome.status == "ok", found[1].outcome
    return found[0].outcome


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("Missing", "error", "faulty.py has no 'Missing'"),
        ("Raises", "error", "ValueError: no luck"),
        ("RaisesUnprintable", "error", "Shy"),
        ("WrongShape", "invalid_output", "shape [1, 2, 1, 16], the queries [1, 2, 64, 16]"),
        ("WrongDtype", "invalid_output", "torch.float16"),
        ("NotATensor", "invalid_output", "list"),
        ("GivesNaN", "invalid_output", "1 of 2048 output values are NaN"),
        ("ChangesInputs", "invalid_output", "changes its inputs"),
        ("Remembers", "invalid_output", "kept between calls"),
        ("Segfaults", "crash", "SIGSEGV"),
        ("Aborts", "crash", "SIGABRT"),
        ("SysExits", "crash", "code 0 without an answer"),
        ("OsExits", "crash", "code 0 without an answer"),
        ("KilledLikeByTheKernel", "crash", "SIGKILL"),
        ("TakesAllMemory", "oom_host", "more than was free"),
        ("TakesPythonMemory", "oom_host", "more memory than was free"),
        ("CudaOutOfMemory", "oom_device", "Tried to allocate 20.00 GiB."),
        ("DeviceLost", "device_lost", "GPU is lost"),
    ],
)
def test_a_fault_is_a_record_with_its_reason(executor: LocalExecutor, name: str, status: str, reason: str) -> None:
    outcome = outcome_of(executor, name)
    assert (outcome.status, reason in outcome.detail) == (status, True), outcome


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("WrongShape", "shape [1, 2, 1, 16], the queries [1, 2, 64, 16]"),
        ("WrongDtype", "torch.float16"),
        ("NotATensor", "list"),
        ("GivesNaN", "1 of 2048 output values are NaN"),
        ("ChangesInputs", "changes its inputs"),
        ("Remembers", "kept between calls"),
    ],
)
def test_agreement_reports_invalid_output_instead_of_comparing_it(
    executor: LocalExecutor, name: str, reason: str
) -> None:
    outcome = outcome_of(executor, name, kind="agreement")
    assert (outcome.status, reason in outcome.detail) == ("invalid_output", True), outcome


@pytest.mark.parametrize("name", ["HangsSilently", "HangsChattily", "IgnoresSigterm", "HangingGrandchild"])
def test_a_job_that_hangs_is_ended_at_its_deadline(executor: LocalExecutor, name: str) -> None:
    started = time.monotonic()
    outcome = outcome_of(executor, name, timeout_s=1.5)
    assert outcome.status == "timeout"
    assert "--timeout" in outcome.detail
    assert time.monotonic() - started < 15


@pytest.mark.parametrize("name", ["LocalClass", "lambda_attention", "plain_function", "StrayThread", "Floods"])
def test_odd_but_valid_mechanisms_are_measured(executor: LocalExecutor, name: str) -> None:
    outcome = outcome_of(executor, name)
    assert outcome.status == "ok", outcome.detail


@pytest.mark.parametrize(
    ("name", "mark"), [("HangingGrandchild", "attnbench-grandchild"), ("LeavesGrandchild", "attnbench-stray")]
)
def test_no_process_outlives_its_job(executor: LocalExecutor, name: str, mark: str) -> None:
    outcome_of(executor, name, timeout_s=2.0)
    deadline = time.monotonic() + 5
    while running(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running(mark)


def test_the_log_of_a_flood_of_output_keeps_its_beginning_its_end_and_the_traceback(executor: LocalExecutor) -> None:
    outcome = outcome_of(executor, "FloodsAndRaises")
    assert outcome.log.startswith(r"\xff\xfe flood")
    assert "bytes left out" in outcome.log
    assert "the end of the flood" in outcome.log
    assert "after the flood" in outcome.log
    assert len(outcome.log) < 200_000


def test_closing_the_executor_ends_everything_at_once() -> None:
    executor = LocalExecutor()
    planned = job("HangingGrandchild")
    hanging = replace(planned, case=replace(planned.case, shape=SMALL), target=f"{PLUGINS}:HangingGrandchild")
    events = executor.run(iter([hanging]))
    next(events)
    deadline = time.monotonic() + 10
    while not running("attnbench-grandchild") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running("attnbench-grandchild")
    executor.close()
    deadline = time.monotonic() + 5
    while running("attnbench-grandchild") and time.monotonic() < deadline:  # it may be another test's
        time.sleep(0.05)
    assert not running("attnbench-grandchild")
