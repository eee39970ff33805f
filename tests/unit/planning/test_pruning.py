"""Which jobs are skipped because of what earlier ones have shown."""

import pytest
from msgspec.structs import replace

from attnbench.contracts.record import Job, Outcome, Record, Status
from attnbench.planning.pruning import Pruner
from helpers.planted import job, ok


def pruner(*ended: tuple[Job, Outcome], prune: bool = True) -> Pruner:
    records = (Record(run="r", job=one, outcome=outcome) for one, outcome in ended)
    return Pruner(records, prune=prune)


def with_shape(one: Job, **sizes: int) -> Job:
    return replace(one, case=replace(one.case, shape=replace(one.case.shape, **sizes)))


@pytest.mark.parametrize("status", ["oom_host", "oom_device", "timeout"])
def test_what_is_longer_than_a_case_that_ran_out_is_skipped_with_its_reason(status: Status) -> None:
    seen = pruner((job(seq=1024), Outcome(status=status, detail="too much")))
    reason = seen.reason_to_skip(job(seq=2048))
    assert reason is not None
    assert reason.startswith("longer than 1024")
    assert status in reason
    assert "too much" in reason
    assert "--no-prune" in reason
    assert seen.reason_to_skip(job(seq=512)) is None


def test_without_pruning_every_length_is_tried() -> None:
    seen = pruner((job(seq=1024), Outcome(status="oom_host")), prune=False)
    assert seen.reason_to_skip(job(seq=2048)) is None


@pytest.mark.parametrize("status", ["error", "crash", "unsupported", "invalid_output", "device_lost"])
def test_a_failure_for_another_reason_than_size_prunes_nothing(status: Status) -> None:
    assert pruner((job(seq=1024), Outcome(status=status))).reason_to_skip(job(seq=2048)) is None


def test_only_cases_that_differ_in_length_alone_are_pruned() -> None:
    seen = pruner((job(seq=1024), Outcome(status="oom_host")))
    longer = job(seq=2048)
    others = [
        job("linear", seq=2048),
        job(seq=2048, kind="memory"),
        with_shape(longer, heads=4, kv_heads=4),
        replace(longer, case=replace(longer.case, passes="backward")),
        replace(longer, case=replace(longer.case, options={"k": 3})),
        replace(longer, case=replace(longer.case, dtype="float64")),
    ]
    assert [seen.reason_to_skip(other) for other in others] == [None] * len(others)
    assert seen.reason_to_skip(longer) is not None


def test_longer_sequences_of_a_smaller_batch_are_pruned_only_where_the_tokens_are_no_fewer() -> None:
    seen = pruner((with_shape(job(seq=1024), batch=16), Outcome(status="oom_device")))
    assert seen.reason_to_skip(with_shape(job(seq=2048), batch=8)) is not None
    assert seen.reason_to_skip(with_shape(job(seq=2048), batch=4)) is None


def test_a_twin_is_not_measured_where_its_baseline_is_not() -> None:
    first = job(number=1)
    twin = replace(first, probe=replace(first.probe, twin=True))
    once = (first, ok(9_000_000_000, flags=("once",)))
    assert pruner(once).reason_to_skip(replace(twin, round=1)) is not None
    assert pruner((twin, once[1])).reason_to_skip(first) is None


def test_a_case_that_succeeds_later_is_measured_again() -> None:
    first, second, third = (job(number=number) for number in (1, 2, 3))
    seen = pruner((first, Outcome(status="crash", detail="bang")))
    assert seen.reason_to_skip(second) == "round 1 ended as crash: bang"
    seen.add(Record(run="r", job=second, outcome=ok()))
    assert seen.reason_to_skip(third) is None
