import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from attnbench import Mask, Unsupported
from attnbench_variants.blocks.fused_kernels import Fused
from attnbench_variants.blocks.grouped_heads import per_query_head
from attnbench_variants.blocks.masks import visible_keys, visible_pairs
from laws.operations import operations
from laws.workloads import WORKLOADS, draw


@pytest.mark.parametrize("window", [None, 1, 4, 9, 100])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (9, 9), (3, 9), (1, 9)])
def test_the_count_of_visible_pairs_is_what_the_mask_holds(queries, keys, causal, window):
    mask = Mask(causal=causal, window=window)
    dense = visible_keys(mask, queries=queries, keys=keys, device="cpu")
    counted = queries * keys if dense is None else int(dense.sum())
    assert visible_pairs(mask, queries=queries, keys=keys) == counted


def test_a_causal_window_of_w_holds_w_keys_and_a_full_one_w_on_either_side():
    for causal, row in ((True, [0, 1, 1, 0, 0]), (False, [0, 1, 1, 1, 0])):
        seen = visible_keys(Mask(causal=causal, window=2), queries=5, keys=5, device="cpu")
        assert seen[2].int().tolist() == row


def test_fewer_queries_than_keys_are_the_last_positions():
    seen = visible_keys(Mask(causal=True), queries=2, keys=4, device="cpu")
    assert seen.int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_keys_of_ungrouped_heads_are_not_copied():
    x = torch.randn(1, 4, 3, 2)
    assert per_query_head(x, 4) is x
    assert torch.equal(per_query_head(x, 8)[:, 2:4], x[:, 1:2].expand(-1, 2, -1, -1))


FLASH = "_scaled_dot_product_flash_attention_for_cpu"


def test_the_resolved_kernel_runs_even_where_torch_would_choose_another():
    case = WORKLOADS["full"]
    fused, qkv = Fused(case, among=(SDPBackend.FLASH_ATTENTION,)), draw("vanilla", case)
    with sdpa_kernel(SDPBackend.MATH):
        assert FLASH in operations(lambda: fused(*qkv))
    strided = tuple(x.transpose(2, 3).contiguous().transpose(2, 3) for x in qkv)
    assert FLASH in operations(lambda: fused(*strided))


def test_the_math_kernel_runs_where_it_was_asked_for():
    case = WORKLOADS["full"]
    fused = Fused(case, among=(SDPBackend.MATH,))
    assert fused.name.startswith("torch-math ")
    assert FLASH not in operations(lambda: fused(*draw("vanilla", case)))


def test_kernels_that_torch_refuses_are_passed_over_or_told_with_torchs_reason():
    among = (SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
    assert Fused(WORKLOADS["full"], among=among).name.startswith("torch-math ")
    with pytest.raises(Unsupported, match=r"torch-efficient: \w+"):
        Fused(WORKLOADS["full"], among=among[:1])
