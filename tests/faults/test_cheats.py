"""Mechanisms that look faster than they are get no figure, but a reason; honest ones get theirs."""

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from attnbench.contracts.case import Shape
from attnbench.contracts.record import Job, Outcome
from attnbench.execute.executor import Finished
from attnbench.execute.local import LocalExecutor
from attnbench.plugins.registry import find
from helpers.planted import job

CHEATING = Path(__file__).parent.parent / "plugins" / "cheating.py"
SHAPE = Shape(batch=1, heads=2, kv_heads=2, seq_q=64, seq_k=64, head_dim=16)

REASONS = {
    "KeepsByAddress": "an output of changed inputs differs",
    "KeepsByIdentity": "an output of changed inputs differs",
    "KeepsByContent": "answers are kept between calls",
    "CopiesWhatItKept": "an output of changed inputs differs",
    "KeepsTheFirst": "an answer is kept between calls",
    "FakesLater": "the first output differs",
    "GivesNaNLater": "NaN or infinite|the first output differs by nan",
    "GivesTextLater": "the output is a str|the first output differs",
    "GivesTheQueriesLater": "the first output differs",
    "GivesAnotherShapeLater": "the output has shape|the first output differs",
    "IsLazy": "not a plain tensor",
    "GoesOnInAThread": "goes on computing after its calls|an output changes after its call",
    "FillsItLater": "an output changes after its call",
    "StopsTheClock": "replaces time.perf_counter_ns",
    "ReplacesTheCheck": "replaces torch.isfinite",
    "TakesMoreThreads": "sets torch's threads to 3; --threads measures it with 2",
}
HONEST = ("vanilla", "flash", "linear", "reformer", "performer", "sinkhorn", "long-short", "uniform")


@pytest.fixture(scope="module")
def executor() -> Iterator[LocalExecutor]:
    with closing(LocalExecutor()) as one:
        yield one


def timed(executor: LocalExecutor, of: Job) -> Outcome:
    one = replace(of, case=replace(of.case, shape=SHAPE))
    (end,) = [event for event in executor.run([one]) if isinstance(event, Finished)]
    return end.outcome


@pytest.mark.parametrize("name", REASONS)
def test_a_mechanism_that_looks_faster_than_it_is_gets_a_reason_in_place_of_a_figure(
    executor: LocalExecutor, name: str
) -> None:
    outcome = timed(executor, replace(job(name), target=f"{CHEATING}:{name}"))
    assert outcome.status == "invalid_output", outcome
    assert re.search(REASONS[name], outcome.detail), outcome.detail


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_mechanism_gets_its_figure(executor: LocalExecutor, name: str) -> None:
    outcome = timed(executor, replace(job(name), target=find(name, "variants", flag="").target))
    assert outcome.status == "ok", outcome.detail
