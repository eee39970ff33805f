from itertools import pairwise

import msgspec
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from attnbench import Mask, Unsupported
from attnbench_variants.blocks.lse_kernels import PLAIN
from attnbench_variants.hierarchical import levels
from helpers.subtests import as_subtests
from laws.memory import peak_bytes
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw, variant

MASKS = as_subtests("causal", [True, False])


def _case(length, *, causal=False, dtype="float64", **options):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=length, seq_k=length)
    return case_for("hierarchical", WORKLOADS["full"], options, shape=shape, mask=Mask(causal=causal), dtype=dtype)


def _exact(case, qkv):
    return built("vanilla", msgspec.structs.replace(case, options={}))(*qkv)


@MASKS
@as_subtests("length", [1, 5, 8, 15, 16])
def test_up_to_two_blocks_are_exact_attention(causal, length):
    case = _case(length, causal=causal, block=8)
    qkv = draw("hierarchical", case)
    assert_near(built("hierarchical", case)(*qkv), _exact(case, qkv), 1e-12)


@MASKS
@as_subtests("length", [64, 61, 100])
def test_clusters_whose_members_are_alike_are_exact_attention(causal, length):
    case = _case(length, causal=causal, block=4)
    q, k, v = draw("hierarchical", case)
    alike = tuple(x[:, :, torch.arange(length) // 64] for x in (q, k))
    assert_near(built("hierarchical", case)(*alike, v), _exact(case, (*alike, v)), 1e-12)


@MASKS
def test_larger_blocks_are_nearer_to_exact_attention(causal):
    errors = []
    for block in (2, 8, 32, 64):
        case = _case(128, causal=causal, block=block)
        qkv = tuple(x.detach() for x in draw("hierarchical", case))
        exact = _exact(case, qkv)
        errors.append(float((built("hierarchical", case)(*qkv) - exact).norm() / exact.norm()))
    assert all(larger < smaller for smaller, larger in pairwise(errors))


def test_later_queries_do_not_move_earlier_outputs_though_clusters_share_one():
    case = _case(100, causal=True, block=2)
    q, k, v = (x.detach() for x in draw("hierarchical", case))
    out = built("hierarchical", case)(q, k, v)
    for position in (31, 50, 99):
        other = q.clone()
        other[:, :, position] += 1
        moved = (built("hierarchical", case)(other, k, v) - out).abs().amax(dim=(0, 1, 3)) > 0
        assert moved.nonzero().min() >= position


def test_cross_attention_and_causal_decoding_are_refused():
    for workload in ("full-fewer-queries", "full-more-queries"):
        with pytest.raises(Unsupported, match="one sequence"):
            built("hierarchical", case_for("hierarchical", WORKLOADS[workload]))
    with pytest.raises(Unsupported):
        built("hierarchical", case_for("hierarchical", WORKLOADS["causal-decode"]))


@MASKS
@as_subtests("backward", [True, False])
def test_memory_grows_with_the_length_and_not_with_its_square(causal, backward):
    def peak(length):
        case = _case(length, causal=causal, dtype="float32")
        attention, qkv = built("hierarchical", case), draw("hierarchical", case)
        if backward:
            return peak_bytes(lambda: torch.autograd.grad(attention(*qkv).sum(), qkv))
        return peak_bytes(lambda: attention(*qkv))

    assert peak(4096) < 2.2 * peak(2048)


def test_operations_grow_with_the_length():
    flops = [variant("hierarchical").flops(_case(length)) for length in (2**12, 2**13, 2**14)]
    assert all(longer < 2.1 * shorter for shorter, longer in pairwise(flops))


@as_subtests("length", [3, 64, 100])
def test_operations_are_those_that_torch_counts(monkeypatch, length):
    monkeypatch.setattr(levels, "kernel_for", lambda _: PLAIN)  # torch counts none for the fused kernel
    case = _case(length, block=4)
    attention, qkv = built("hierarchical", case), draw("hierarchical", case)
    with FlopCounterMode(display=False) as counter:
        out = attention(*qkv)
        assert variant("hierarchical").flops(case) == counter.get_total_flops()
        out.sum().backward()
    both = msgspec.structs.replace(case, passes="forward-backward")
    assert variant("hierarchical").flops(both) == counter.get_total_flops()
