import msgspec
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from attnbench import Mask, Shape, Unsupported
from attnbench_variants.hashing import sinkhorn
from attnbench_variants.hashing.sinkhorn_balancing import balanced, causally_balanced, rows_balanced
from helpers.subtests import as_subtests
from laws.memory import peak_bytes
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw, variant

MASKS = as_subtests("causal", [False, True])


def _case(keys, queries=None, *, causal=False, dtype="float64", **options):
    shape = Shape(batch=2, heads=2, kv_heads=2, seq_q=queries or keys, seq_k=keys, head_dim=4)
    return case_for("sinkhorn", WORKLOADS["full"], options, shape=shape, mask=Mask(causal=causal), dtype=dtype)


@MASKS
@as_subtests("keys", [1, 13, 64])
def test_one_block_is_exact_attention(keys, causal):
    case = _case(keys, causal=causal, block=64)
    qkv = draw("sinkhorn", case)
    out, exact = built("sinkhorn", case)(*qkv), scaled_dot_product_attention(*qkv, is_causal=causal)
    cotangent = torch.randn_like(out)
    found, right = (torch.autograd.grad(x, qkv, cotangent) for x in (out, exact))
    for pair in zip((out, *found), (exact, *right), strict=True):
        assert_near(*pair, 1e-12)


@as_subtests("causal", [False, True])
def test_two_blocks_that_are_sorted_to_each_others_place_are_exact_attention(causal):
    """Causally the first block is all that can come to the second; else a bias sorts each to the other's place."""
    case = _case(16, causal=causal, block=8, iterations=60)
    attention, (q, k, v) = built("sinkhorn", case), draw("sinkhorn", case)
    with torch.no_grad():
        k[:, :, :8, 0], k[:, :, 8:, 0] = 5, -5
        attention.places_DM.zero_()[0] = torch.tensor([-9.0, 9.0])
    assert_near(attention(q, k, v), scaled_dot_product_attention(q, k, v, is_causal=causal), 1e-12)


def test_rows_and_columns_come_to_sum_to_one():
    shares = balanced(torch.randn(3, 9, 9, dtype=torch.float64), iterations=100).exp()
    ones = torch.ones(3, 9, dtype=torch.float64)
    assert_near(shares.sum(dim=1), ones, 1e-12)
    assert_near(shares.sum(dim=2), ones, 1e-9)


def test_by_rows_each_block_is_shared_out_over_the_places_that_it_may_move_to():
    scores = torch.randn(2, 5, 5, dtype=torch.float64)
    assert_near(rows_balanced(scores, causal=False).exp().sum(dim=2), torch.ones(2, 5, dtype=torch.float64), 1e-12)
    causal = rows_balanced(scores, causal=True).exp()
    assert not causal.tril().any()
    assert_near(causal.sum(dim=2)[:, :-1], torch.ones(2, 4, dtype=torch.float64), 1e-12)


def test_well_separated_scores_become_a_permutation():
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    wanted = torch.eye(9)[order][None]
    torch.testing.assert_close(balanced(100 * wanted, iterations=5).exp(), wanted)


def test_causal_columns_sum_to_one_over_earlier_rows_and_know_of_no_later_ones():
    scores = torch.randn(1, 9, 9, dtype=torch.float64)
    other = scores.clone()
    other[:, 5:] += torch.randn(4, 9, dtype=torch.float64)
    one, changed = (causally_balanced(x, iterations=7).exp() for x in (scores, other))
    assert not one.tril().any()
    assert_near(one.sum(dim=1)[:, 1:], torch.ones(1, 8, dtype=torch.float64), 1e-12)
    assert torch.equal(one[:, :, :6], changed[:, :, :6])
    assert not torch.equal(one[:, :, 6:], changed[:, :, 6:])


@MASKS
def test_blocks_in_several_runs_equal_blocks_in_one(monkeypatch, causal):
    case = _case(50, 41, causal=causal, block=4)
    qkv = draw("sinkhorn", case)
    out = built("sinkhorn", case)(*qkv)
    monkeypatch.setattr(sinkhorn, "_CACHED_ELEMENTS", 1)
    assert torch.equal(built("sinkhorn", case)(*qkv), out)


@MASKS
def test_fewer_queries_give_the_last_rows(causal):
    q, k, v = draw("sinkhorn", _case(50, causal=causal, block=8))
    expected = built("sinkhorn", _case(50, causal=causal, block=8))(q, k, v)
    for queries in (1, 2, 3, 25, 49):
        out = built("sinkhorn", _case(50, queries, causal=causal, block=8))(q[:, :, -queries:], k, v)
        assert_near(out, expected[:, :, -queries:], 1e-12)


@as_subtests("dtype", ["float32", "bfloat16", "float16"])
@MASKS
def test_outputs_and_gradients_stay_finite_for_very_long_keys(causal, dtype):
    case = _case(333, causal=causal, dtype=dtype, block=16)
    attention, (q, k, v) = built("sinkhorn", case), draw("sinkhorn", case)
    k = (30 * k).detach().requires_grad_()
    out = attention(q, k, v)
    gradients = torch.autograd.grad(out.sum(), (q, k, v, *attention.parameters()))
    assert all(x.isfinite().all() for x in (out, *gradients))


def test_the_sorting_network_learns():
    case = _case(40, block=8)
    attention = built("sinkhorn", case)
    attention(*draw("sinkhorn", case)).sum().backward()
    assert all(parameter.grad.norm() > 0 for parameter in attention.parameters())


@MASKS
@as_subtests("keys, queries", [(64, 64), (61, 61), (61, 5), (5, 5)])
def test_flops_are_those_that_torch_counts(keys, queries, causal):
    case = _case(keys, queries, causal=causal, block=8)
    attention, qkv = built("sinkhorn", case), draw("sinkhorn", case)
    # torch counts none for the fused kernel
    attention._fused = lambda q, k, v, *, mask: (q @ k.mT).masked_fill(~mask, -torch.inf).softmax(dim=-1) @ v
    with FlopCounterMode(display=False) as counter:
        attention(*qkv)
    assert variant("sinkhorn").flops(case) == counter.get_total_flops()


@MASKS
def test_memory_grows_with_the_length_and_not_with_its_square(causal):
    def peak(length):
        case = _case(length, causal=causal, dtype="float32", block=64)
        attention, qkv = built("sinkhorn", case), draw("sinkhorn", case)
        return peak_bytes(lambda: torch.autograd.grad(attention(*qkv).sum(), qkv))

    assert peak(4096) < 2.3 * peak(2048)


def test_more_queries_than_keys_are_refused():
    with pytest.raises(Unsupported, match="last positions of the keys"):
        built("sinkhorn", msgspec.structs.replace(_case(5, 21)))
