"""Decoding with a state: what a step gives, and that every timed step is the same step."""

from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from attnbench.contracts.case import Case, Mask, Shape
from attnbench.contracts.variant import InvalidOutput, has_steps
from attnbench.measure import agreement, memory
from attnbench.measure.callee import tensors_in
from attnbench.measure.workload import Workload
from attnbench.plugins.registry import find, load
from helpers.planted import job
from helpers.subtests import as_subtests

PLUGINS = Path(__file__).parents[2] / "plugins"
SHAPE = Shape(batch=2, heads=4, kv_heads=4, seq_q=1, seq_k=12, head_dim=8)
DECODE = Case(variant="x", shape=SHAPE, mask=Mask(causal=True), passes="decode", dtype="float64")
LEVELS = ["core", "layer"]


def stepping(name: str) -> object:
    return load(f"{PLUGINS / 'stepping.py'}:{name}")


def plugin(name: str) -> object:
    return load(find(name, "variants", flag="").target)


def called(workload: Workload, count: int) -> list[torch.Tensor]:
    outs = []
    for number in [1] * count:
        (call,) = workload.calls(number)
        outs.append(call().clone())
    return outs


@as_subtests("name", ["Mean", "Caches"])
@as_subtests("keys", [1, 2, 12])
def test_a_step_from_the_state_of_all_keys_but_one_sees_all_keys(name: str, keys: int) -> None:
    workload = Workload(replace(DECODE, shape=replace(SHAPE, seq_k=keys)), stepping(name))
    (out,) = called(workload, 1)
    torch.testing.assert_close(out, workload.sets[0].v_BGSD.mean(dim=2, keepdim=True))
    workload.judge()


@as_subtests("level", LEVELS)
@as_subtests("name", ["Mean", "Caches"])
def test_every_call_is_the_same_step_from_the_same_state(name: str, level: str) -> None:
    workload = Workload(replace(DECODE, level=level), stepping(name))
    outs = called(workload, 7)
    assert torch.equal(outs[0], outs[3])
    assert torch.equal(outs[0], outs[6])
    workload.judge()


@as_subtests("level", LEVELS)
@as_subtests("calls", [4, 9])
def test_a_step_that_adds_to_its_state_in_place_is_refused(calls: int, level: str) -> None:
    workload = Workload(replace(DECODE, level=level), stepping("SumsInPlace"))
    called(workload, calls)
    with pytest.raises(InvalidOutput, match="changes with every step"):
        workload.judge()


def test_a_step_without_the_state_after_it_is_refused() -> None:
    with pytest.raises(InvalidOutput, match=r"step gives a Tensor, not \(output, state\)"):
        called(Workload(DECODE, stepping("ForgetsTheState")), 1)


def test_a_state_of_what_cannot_be_watched_is_refused() -> None:
    with pytest.raises(InvalidOutput, match="the state holds a list"):
        Workload(DECODE, stepping("KeepsAList"))


def test_half_of_what_decoding_takes_is_a_mistake_that_is_named() -> None:
    with pytest.raises(TypeError, match="StepsWithoutPrefill has step alone"):
        Workload(DECODE, stepping("StepsWithoutPrefill"))
    assert not has_steps(torch.nn.Identity())


def test_the_state_is_made_before_any_call() -> None:
    prefills = []

    class Noting(stepping("Mean")):  # type: ignore[misc]
        def prefill(self, k: torch.Tensor, v: torch.Tensor) -> object:
            prefills.append(k.shape[2])
            return super().prefill(k, v)

    workload = Workload(DECODE, Noting)
    assert prefills == [11, 11, 11]
    called(workload, 5)
    assert prefills == [11, 11, 11]


def test_other_passes_are_forward_where_there_is_a_step_too() -> None:
    with pytest.raises(AssertionError, match="step by step"):
        called(Workload(replace(DECODE, passes="forward"), stepping("Mean")), 1)


@as_subtests("level", LEVELS)
@as_subtests("kv_heads", [4, 2])
@as_subtests("name", ["vanilla", "flash", "linear"])
def test_decoding_gives_the_last_row_of_the_causal_forward(name: str, kv_heads: int, level: str) -> None:
    shape = replace(SHAPE, kv_heads=kv_heads)
    decode = Workload(replace(DECODE, shape=shape, level=level), plugin(name))
    forward = replace(DECODE, shape=replace(shape, seq_q=12), passes="forward", level=level)
    whole = Workload(forward, plugin(name))
    (out,), inputs = called(decode, 1), decode.sets[0]
    if level == "layer":
        all_rows = whole.callee.call(inputs.sources[1])
        last = all_rows[:, -1:]
    else:
        queries = torch.randn(2, 4, 12, 8, dtype=torch.float64)
        queries[:, :, -1:] = inputs.q_BHTD
        last = whole.callee.call(queries, *inputs.tensors[1:])[:, :, -1:]
    torch.testing.assert_close(out, last)
    decode.judge()


def test_linear_attention_decodes_at_a_cost_that_does_not_depend_on_what_came_before() -> None:
    workloads = (Workload(replace(DECODE, shape=replace(SHAPE, seq_k=keys)), plugin("linear")) for keys in (64, 4096))
    short, long = ([tensor.shape for tensor in tensors_in(each.callee.arguments(each.sets[0]))] for each in workloads)
    assert short == long


@as_subtests("level", LEVELS)
def test_neither_a_state_nor_a_cache_is_part_of_memory(level: str) -> None:
    def peak(name: str, keys: int) -> float:
        case = replace(DECODE, shape=replace(SHAPE, seq_k=keys), level=level)
        planned = replace(job("x", kind="memory"), case=case, target=find(name, "variants", flag="").target)
        (found, *_) = memory.measure(planned, lambda _text: None).measurements
        return found.values[0]

    assert peak("linear", 64) == peak("linear", 4096)
    keys_and_values = 2 * 2 * 4 * 4096 * 8 * 8
    assert peak("flash", 4096) < keys_and_values / 2


def test_agreement_holds_a_step_against_exact_attention_over_all_keys() -> None:
    case = replace(DECODE, dtype="float32")
    found = agreement.measure(
        replace(job("x", kind="agreement"), case=case, target=find("linear", "variants", flag="").target),
        lambda _text: None,
    )
    figures = {one.metric: one.values[0] for one in found.measurements}
    assert figures["numerical_error"] < 1e-6
    assert 1e-3 < figures["approximation_error"] < 2
