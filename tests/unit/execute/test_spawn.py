"""Where fork is unsafe, a spawned process serves as the forked one does."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from attnbench.contracts.case import Shape
from attnbench.contracts.errors import UsageError
from attnbench.contracts.record import Environment
from attnbench.execute.executor import Finished
from attnbench.execute.local import LocalExecutor
from attnbench.execute.messages import DescribeMachine
from helpers.planted import job

PLUGINS = Path(__file__).parents[2] / "plugins" / "faulty.py"
SMALL = Shape(batch=1, heads=2, kv_heads=2, seq_q=64, seq_k=64, head_dim=16)


@pytest.fixture(scope="module")
def executor() -> Iterator[LocalExecutor]:
    with closing(LocalExecutor(spawn=True)) as one:
        yield one


@pytest.mark.parametrize(
    ("name", "status", "detail"),
    [
        ("Good", "ok", ""),
        ("Raises", "error", "no luck"),
        ("OsExits", "crash", "code 0"),
        ("Segfaults", "crash", "SEGV"),
    ],
)
def test_a_spawned_job_ends_as_a_forked_one(executor: LocalExecutor, name: str, status: str, detail: str) -> None:
    planned = job(name)
    asked = replace(planned, case=replace(planned.case, shape=SMALL), target=f"{PLUGINS}:{name}")
    (outcome,) = [event.outcome for event in executor.run(iter([asked])) if isinstance(event, Finished)]
    assert (outcome.status, detail in outcome.detail) == (status, True), outcome


def test_a_spawned_job_that_hangs_is_ended_at_its_deadline(executor: LocalExecutor) -> None:
    planned = job("HangsChattily")
    protocol = replace(planned.protocol, timeout_s=10.0)
    asked = replace(
        planned, case=replace(planned.case, shape=SMALL), protocol=protocol, target=f"{PLUGINS}:HangsChattily"
    )
    (outcome,) = [event.outcome for event in executor.run(iter([asked])) if isinstance(event, Finished)]
    assert outcome.status == "timeout"
    assert "still here" in outcome.log


def test_a_mistake_that_a_spawned_process_finds_is_the_users(executor: LocalExecutor) -> None:
    with pytest.raises(UsageError, match="--device"):
        executor.ask(DescribeMachine(device="cuda:99", threads=1), Environment)
