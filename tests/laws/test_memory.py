"""CPU memory is exact to the allocator: equal from process to process to the byte, and what a hand count gives."""

# B batch, H heads, T queries, S keys, D head dimension
from collections.abc import Iterator
from contextlib import closing

import msgspec
import pytest

from attnbench.contracts.case import Case, Mask, Shape
from attnbench.contracts.record import Job, Origin, Outcome, Probe, Protocol
from attnbench.contracts.variant import complete_options
from attnbench.execute.executor import Finished
from attnbench.execute.local import LocalExecutor
from helpers.subtests import as_subtests
from laws.workloads import ENTRIES, mask_of, variant

FLOAT = 4
TABLE = ("memory", "memory_first_call")
ROUNDS = (1, 2)
SEQS = (1024, 2048, 4096)


def planned(name: str, *, seq: int = 256, number: int = 1, mask: Mask | None = None) -> Job:
    shape = Shape(batch=2, heads=4, kv_heads=4, seq_q=seq, seq_k=seq, head_dim=32)
    options = msgspec.structs.asdict(complete_options(variant(name), {}))
    case = Case(variant=name, options=options, shape=shape, mask=mask or mask_of(name))
    target = ENTRIES[name].target
    protocol = Protocol(threads=1)
    return Job(
        case=case,
        probe=Probe(kind="memory"),
        protocol=protocol,
        target=target,
        origin=Origin(source_hash=name),
        round=number,
    )


def bytes_of(outcome: Outcome) -> dict[str, float]:
    assert outcome.status == "ok", outcome.detail
    return {one.metric: one.values[0] for one in outcome.measurements if one.metric in TABLE}


def run(executor: LocalExecutor, *jobs: Job) -> list[dict[str, float]]:
    return [bytes_of(event.outcome) for event in executor.run(jobs) if isinstance(event, Finished)]


@pytest.fixture(scope="module")
def executor() -> Iterator[LocalExecutor]:
    with closing(LocalExecutor()) as one:
        yield one


@pytest.fixture(scope="module")
def replicates(executor: LocalExecutor) -> dict[str, list[dict[str, float]]]:
    """Measure every mechanism once in each round, whose processes are forked from a server of its own."""
    found: dict[str, list[dict[str, float]]] = {}
    for event in executor.run(planned(name, number=number) for number in ROUNDS for name in ENTRIES):
        if isinstance(event, Finished):
            found.setdefault(event.job.case.variant, []).append(bytes_of(event.outcome))
    return found


@as_subtests("name", ENTRIES)
def test_two_processes_of_one_case_use_the_same_memory_to_the_byte(replicates, name):
    one, other = replicates[name]
    assert one == other
    assert one["memory"] > 0


@as_subtests("mask, hidden", [(Mask(), 0), (Mask(causal=True), 1)])
def test_peak_memory_of_vanilla_is_the_sum_of_its_tensors(executor, mask, hidden):
    (found,) = run(executor, planned("vanilla", seq=1024, mask=mask))
    scores, output = 2 * 4 * 1024 * 1024 * FLOAT, 2 * 4 * 1024 * 32 * FLOAT
    scaled_queries, mask_bytes = output, hidden * 1024 * 1024
    assert found["memory"] == pytest.approx(scores + scaled_queries + output + mask_bytes, rel=0.01)


def test_memory_of_flash_grows_with_the_sequence_by_its_output_and_a_sum_for_each_query(executor):
    peaks = [found["memory"] for found in run(executor, *(planned("flash", seq=seq) for seq in SEQS))]
    of_a_query = 2 * 4 * (32 + 1) * FLOAT
    scratch = [peak - of_a_query * seq for peak, seq in zip(peaks, SEQS, strict=True)]
    assert max(scratch) - min(scratch) < 0.01 * peaks[0]
    assert 0 <= scratch[0] < 1 << 20
