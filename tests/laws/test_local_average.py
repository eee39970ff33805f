import msgspec
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from attnbench import Mask, Unsupported
from helpers.subtests import as_subtests
from laws.memory import peak_bytes
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw, variant

MASKS = [Mask(), Mask(causal=True)]


def _average(length, *, queries=None, mask=MASKS[0], dtype="float64", passes="", width=256):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=queries or length, seq_k=length)
    changes = {"shape": shape, "mask": mask, "dtype": dtype, "passes": passes}
    return case_for("local-average", WORKLOADS["full"], {"width": width}, **changes)


def _gradient(out, v):
    cotangent = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(5))
    return torch.autograd.grad(out, v, cotangent)[0]


@as_subtests("mask", MASKS)
@as_subtests("width", [1, 2, 31, 32, 33, 64, 75, 257, 400])
@as_subtests("queries, keys", [(300, 300), (1, 300), (90, 300)])
def test_it_is_a_window_where_all_scores_are_equal(mask, width, queries, keys):
    case = _average(keys, queries=queries, mask=mask, width=width)
    q, k, v = draw("local-average", case)
    out = built("local-average", case)(q, k, v)
    window = case_for("window", case, {"width": width})
    true = built("window", window)(torch.zeros_like(q), k, v)
    assert_near(out, true, 1e-12)
    assert_near(_gradient(out, v), _gradient(true, v), 1e-12)


@as_subtests("mask", MASKS)
def test_neither_queries_nor_keys_are_read(mask):
    case = _average(50, mask=mask, width=8)
    q, k, v = draw("local-average", case)
    assert torch.equal(built("local-average", case)(q, k, v), built("local-average", case)(-q, k + 1, v))


@as_subtests("mask", MASKS)
def test_averages_far_along_a_sequence_are_as_exact_as_at_its_start(mask):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, batch=1, heads=1, kv_heads=1, seq_q=2**18, seq_k=2**18)
    case = msgspec.structs.replace(_average(1, mask=mask, dtype="float32"), shape=shape)
    q, k, v = (x.detach() + 100 for x in draw("local-average", case))
    wide = msgspec.structs.replace(case, dtype="float64")
    error = built("local-average", case)(q, k, v).double() - built("local-average", wide)(q, k, v.double())
    assert error.abs().max() < 5e-5  # of values about 100, whose own rounding is 4e-6


@as_subtests("kv_heads", [2, 1])
@as_subtests("before", [0, 1, 5, 30])
def test_steps_after_a_prefill_equal_the_causal_whole(before, kv_heads):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=40, seq_k=40, kv_heads=kv_heads)
    case = case_for("local-average", WORKLOADS["full"], {"width": 4}, shape=shape, mask=Mask(causal=True))
    attention, (q, k, v) = built("local-average", case), (x.detach() for x in draw("local-average", case))
    state, steps = attention.prefill(k[:, :, :before], v[:, :, :before]), []
    for t in range(before, 40):
        one = q[:, :, t : t + 1], k[:, :, t : t + 1], v[:, :, t : t + 1]
        (first, _), (out, state) = (attention.step(*one, state) for _ in range(2))
        assert torch.equal(first, out)  # the state before stays good for the same step
        steps.append(out)
    assert_near(torch.cat(steps, dim=2), attention(q, k, v)[:, :, before:], 1e-12)


@as_subtests("mask", MASKS)
@as_subtests("passes", ["forward", "forward-backward"])
@as_subtests("queries, width", [(300, 20), (300, 64), (70, 45)])
def test_operations_are_those_that_torch_counts(mask, passes, queries, width):
    case = _average(300, queries=queries, mask=mask, passes=passes, width=width)
    qkv = draw("local-average", case)
    with FlopCounterMode(display=False) as counter:
        out = built("local-average", case)(*qkv)
        if passes != "forward":
            out.sum().backward()
    assert counter.get_total_flops() == variant("local-average").flops(case)


@as_subtests("mask", MASKS)
@as_subtests("passes", ["forward", "forward-backward"])
def test_memory_grows_with_the_length_and_not_with_its_square(mask, passes):
    def peak(length):
        case = _average(length, mask=mask, dtype="float32")
        attention, (q, k, v) = built("local-average", case), draw("local-average", case)
        return peak_bytes(lambda: _gradient(attention(q, k, v), v) if passes != "forward" else attention(q, k, v))

    assert peak(8192) < 2.2 * peak(4096)


def test_more_queries_than_keys_are_refused():
    with pytest.raises(Unsupported, match="more of them than keys"):
        built("local-average", _average(20, queries=21))
