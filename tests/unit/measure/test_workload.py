"""Inputs that follow from the seed alone, and calls that use them in turn."""

import pytest
import torch

from attnbench.case import Case, Shape
from attnbench.measure.timing import cpu_clock, timer_cost_ns
from attnbench.measure.workload import Workload, checksum, draw
from helpers.planted import job

CASE = Case(variant="x", shape=Shape(batch=2, heads=4, kv_heads=2, seq_q=8, seq_k=16, head_dim=4))


def test_inputs_follow_from_the_seed_and_differ_between_sets() -> None:
    first, again, other = draw(CASE, 0, tied=False), draw(CASE, 0, tied=False), draw(CASE, 1, tied=False)
    assert torch.equal(first.q_BHTD, again.q_BHTD)
    assert not torch.equal(first.q_BHTD, other.q_BHTD)
    assert first.q_BHTD.shape == (2, 4, 8, 4)
    assert first.k_BGSD.shape == first.v_BGSD.shape == (2, 2, 16, 4)


def test_every_dtype_is_given_the_same_numbers_rounded() -> None:
    from msgspec.structs import replace

    wide = draw(replace(CASE, dtype="float64"), 0, tied=False).v_BGSD
    for name in ("float32", "bfloat16", "float16"):
        narrow = draw(replace(CASE, dtype=name), 0, tied=False).v_BGSD
        assert torch.equal(narrow, wide.to(narrow.dtype))


def test_a_mechanism_that_ties_queries_and_keys_is_given_one_tensor() -> None:
    inputs = draw(CASE, 0, tied=True)
    assert inputs.k_BGSD is inputs.q_BHTD


def test_calls_take_the_sets_in_turn() -> None:
    seen: list[int] = []

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        seen.append(checksum(q))
        return q

    workload = Workload(CASE, attention_class(attention))
    for count in (1, 1, 4):
        for call in workload.calls(count):
            call()
    assert seen[:3] == [checksum(inputs.q_BHTD) for inputs in workload.sets]
    assert seen[3:] == seen[:3]


def attention_class(function: object) -> type:
    class Made:
        def __init__(self, case: Case) -> None:
            pass

        def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return function(q, k, v)

    return Made


@pytest.mark.parametrize("passes", ["backward", "forward-backward"])
def test_gradients_reach_inputs_and_parameters_and_none_accumulates(passes: str) -> None:
    from msgspec.structs import replace

    class Scaled(torch.nn.Module):
        def __init__(self, case: Case) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return q * self.scale

    workload = Workload(replace(CASE, passes=passes), Scaled)
    (call,) = workload.calls(1)
    q_grad, k_grad, v_grad, scale_grad = call()
    assert torch.equal(q_grad, workload.sets[0].grad_BHTD)
    assert k_grad is None
    assert v_grad is None
    assert scale_grad.shape == ()
    assert workload.sets[0].q_BHTD.grad is None


def test_a_module_is_moved_to_the_dtype_of_its_case() -> None:
    from msgspec.structs import replace

    class Holds(torch.nn.Linear):
        def __init__(self, case: Case) -> None:
            super().__init__(4, 4)

        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return super().forward(q)

    workload = Workload(replace(CASE, dtype="float64"), Holds)
    (call,) = workload.calls(1)
    call()
    workload.judge()


def test_the_cpu_clock_times_all_calls_of_a_sample_together() -> None:
    made: list[int] = []
    clock = cpu_clock(lambda count: made.append(count) or [lambda: None] * count)
    assert clock.run(1000) > 0
    assert made == [1000]
    assert clock.least_ns >= 1_000_000
    assert clock.least_ns >= timer_cost_ns() * 1000  # the timer's share is 1e-4; its cost varies between two looks


def test_the_planted_job_names_its_question_apart_from_its_round() -> None:
    assert job(number=1).question == job(number=2).question
    assert job(number=1).key != job(number=2).key
