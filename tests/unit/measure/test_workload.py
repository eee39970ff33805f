"""Calls that use the inputs in turn, and the judgement of what they give back."""

import pytest
import torch
from msgspec.structs import replace

from attnbench.contracts.case import Case, Shape
from attnbench.contracts.variant import InvalidOutput, Unsupported
from attnbench.measure.checks import checksum
from attnbench.measure.timing import cpu_clock, timer_cost_ns
from attnbench.measure.workload import Workload
from helpers.planted import job
from helpers.subtests import as_subtests

CASE = Case(variant="x", shape=Shape(batch=2, heads=4, kv_heads=2, seq_q=8, seq_k=16, head_dim=4))


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


@as_subtests("passes", ["backward", "forward-backward"])
def test_gradients_reach_inputs_and_parameters_and_none_accumulates(passes: str) -> None:
    class Scaled(torch.nn.Module):
        def __init__(self, case: Case) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return q * self.scale

    workload = Workload(replace(CASE, passes=passes), Scaled)
    (call,) = workload.calls(1)
    q_grad, k_grad, v_grad, scale_grad = call()
    assert torch.equal(q_grad, workload.sets[0].cotangent)
    assert k_grad is None
    assert v_grad is None
    assert scale_grad.shape == ()
    assert workload.sets[0].q_BHTD.grad is None


def test_a_module_is_moved_to_the_dtype_of_its_case() -> None:
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
    clock = cpu_clock(lambda count: made.append(count) or [lambda: None] * count, keep=lambda out: None)
    assert clock.run(1000) > 0
    assert made == [1000]
    assert clock.least_ns >= 1_000_000
    assert clock.least_ns >= timer_cost_ns() * 1000  # the timer's share is 1e-4; its cost varies between two looks


def test_the_planted_job_names_its_question_apart_from_its_round() -> None:
    assert job(number=1).question == job(number=2).question
    assert job(number=1).key != job(number=2).key


@as_subtests("device", ["mps", "xpu:0"])
def test_a_device_without_a_clock_is_refused_before_anything_is_built(device: str) -> None:
    with pytest.raises(Unsupported, match=f"{device.partition(':')[0]} is not measured yet"):
        Workload(replace(CASE, device=device), attention_class(None))


def test_a_mechanism_that_writes_into_one_buffer_of_its_own_is_not_accused() -> None:
    buffer = torch.empty(2, 4, 8, 4)
    workload = Workload(CASE, attention_class(lambda q, k, v: buffer.copy_(q)))
    for count in (1, 3):
        for call in workload.calls(count):
            call()
    workload.judge()


def test_an_answer_that_is_kept_in_a_buffer_is_still_found() -> None:
    answer = torch.randn(2, 4, 8, 4)
    workload = Workload(CASE, attention_class(lambda q, k, v: answer))
    for count in (1, 1, 1):
        for call in workload.calls(count):
            call()
    with pytest.raises(InvalidOutput, match="kept between calls"):
        workload.judge()


def test_a_projection_of_zeros_is_not_accused_of_keeping_its_answer() -> None:
    workload = Workload(CASE, attention_class(lambda q, k, v: 0 * q))
    called(workload)
    workload.judge()


@pytest.mark.parametrize("seq", [8, 9, 16])
def test_a_mean_of_the_values_is_not_accused_of_keeping_its_answer(seq: int) -> None:
    shape = replace(CASE.shape, kv_heads=4, seq_q=seq, seq_k=seq)
    workload = Workload(replace(CASE, shape=shape), attention_class(lambda q, k, v: v.mean(2, keepdim=True) + 0 * q))
    called(workload)
    workload.judge()


def called(workload: Workload) -> None:
    for count in (1, 1, 1):
        for call in workload.calls(count):
            call()


@as_subtests("passes", ["backward", "forward-backward"])
def test_the_module_is_not_walked_while_calls_are_timed(passes: str) -> None:
    walks: list[None] = []

    class Walked(torch.nn.Linear):
        def __init__(self, case: Case) -> None:
            super().__init__(4, 4)

        def parameters(self, recurse: bool = True):
            walks.append(None)
            return super().parameters(recurse)

        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return super().forward(q)

    workload = Workload(replace(CASE, passes=passes), Walked)
    built = len(walks)
    for call in workload.calls(5):
        call()
    assert len(walks) == built
