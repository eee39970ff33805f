from itertools import pairwise

import msgspec
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from attnbench import Mask
from attnbench_variants.blocks.lse_kernels import PLAIN
from helpers.subtests import as_subtests
from laws.memory import peak_bytes
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw, variant

BOTH = pytest.mark.parametrize("name", ["sparse-strided", "sparse-fixed"])
MASKS = as_subtests("causal", [True, False])


def _case(name, length, *, queries=None, causal=False, dtype="float64", **options):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=queries or length, seq_k=length)
    return case_for(name, WORKLOADS["full"], options, shape=shape, mask=Mask(causal=causal), dtype=dtype)


@MASKS
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sparse-strided", {"stride": 50}),
        ("sparse-strided", {"stride": 1}),
        ("sparse-fixed", {"stride": 50}),
        ("sparse-fixed", {"stride": 7, "c": 7}),
    ],
)
def test_a_stride_as_long_as_the_sequence_or_of_one_is_exact_attention_and_so_are_blocks_that_sum_up_all(
    name, options, causal
):
    case = _case(name, 50, causal=causal, **options)
    qkv = draw(name, case)
    assert_near(built(name, case)(*qkv), built("vanilla", msgspec.structs.replace(case, options={}))(*qkv), 1e-12)


@BOTH
@MASKS
@as_subtests("queries", [1, 2, 5, 12, 13, 16, 17, 18, 20])
def test_fewer_queries_than_keys_are_the_last_rows_wherever_the_first_one_lies(name, causal, queries):
    all_rows = _case(name, 21, causal=causal, stride=4)
    q, k, v = draw(name, all_rows)
    expected = built(name, all_rows)(q, k, v)[:, :, -queries:]
    fewer = _case(name, 21, queries=queries, causal=causal, stride=4)
    assert_near(built(name, fewer)(q[:, :, -queries:], k, v), expected, 1e-12)


@as_subtests("queries", [21, 5])
def test_the_fixed_pattern_that_is_causal_by_option_is_that_of_a_causal_workload(queries):
    by_option = _case("sparse-fixed", 21, queries=queries, stride=4, c=2, causal=False)
    by_option = msgspec.structs.replace(by_option, options=by_option.options | {"causal": True})
    by_mask = _case("sparse-fixed", 21, queries=queries, stride=4, c=2, causal=True)
    qkv = draw("sparse-fixed", by_mask)
    assert torch.equal(built("sparse-fixed", by_option)(*qkv), built("sparse-fixed", by_mask)(*qkv))
    assert variant("sparse-fixed").flops(by_option) == variant("sparse-fixed").flops(by_mask)


@pytest.mark.parametrize(
    ("name", "seen"),
    [("sparse-strided", [2, 6, *range(10, 15)]), ("sparse-fixed", [3, 7, 11, 12, 13, 14])],
)
def test_a_query_sees_what_the_paper_draws(name, seen):
    case = _case(name, 16, causal=True, **{"stride": 4} | ({"c": 1} if name == "sparse-fixed" else {}))
    q, k, v = draw(name, case)
    gradient = torch.autograd.grad(built(name, case)(q, k, v)[0, 0, 14].sum(), v)[0][0, 0]
    assert gradient.abs().sum(dim=1).nonzero().flatten().tolist() == seen


@BOTH
def test_the_default_stride_is_near_the_root_of_the_length_and_the_papers_at_the_papers_length(name):
    for length, stride in ((4096, 64), (12288, 128)):
        default, given = (variant(name).flops(_case(name, length, **options)) for options in ({}, {"stride": stride}))
        assert default == given


@BOTH
@MASKS
@as_subtests("backward", [True, False])
def test_memory_grows_with_the_length_and_not_with_its_square(name, causal, backward):
    def peak(length):
        case = _case(name, length, causal=causal, dtype="float32")
        attention, qkv = built(name, case), draw(name, case)
        if backward:
            return peak_bytes(lambda: torch.autograd.grad(attention(*qkv).sum(), qkv))
        return peak_bytes(lambda: attention(*qkv))

    assert peak(8000) < 2.3 * peak(4000)  # neither is a multiple of its stride


@BOTH
@MASKS
def test_operations_grow_with_the_length_to_the_power_of_one_and_a_half(name, causal):
    flops = [variant(name).flops(_case(name, length, causal=causal)) for length in (2**14, 2**16, 2**18)]
    assert all(6 < longer / shorter < 9 for shorter, longer in pairwise(flops))


@BOTH
@as_subtests("length, queries", [(48, 48), (50, 50), (50, 13), (3, 3)])
def test_operations_are_those_that_torch_counts(name, length, queries):
    case = _case(name, length, queries=queries, stride=8)
    attention = built(name, case)
    attention._kernel = PLAIN  # torch counts none for the fused kernel
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        attention(*draw(name, case))
    assert variant(name).flops(case) == counter.get_total_flops()
