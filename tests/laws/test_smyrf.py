import msgspec
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from attnbench import Mask, Shape, Unsupported
from attnbench.contracts.variant import build, check_support
from attnbench_variants.blocks.lse_kernels import PLAIN
from attnbench_variants.hashing.clusters import Shares
from attnbench_variants.hashing.smyrf import Smyrf
from helpers.subtests import as_subtests
from laws.memory import peak_bytes
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw
from references.smyrf import on_sphere, smyrf


def _case(queries, keys=None, *, dtype="float64", passes="", head_dim=4, **options):
    shape = Shape(batch=2, heads=2, kv_heads=2, seq_q=queries, seq_k=keys or queries, head_dim=head_dim)
    return case_for("smyrf", WORKLOADS["full"], options, shape=shape, dtype=dtype, passes=passes)


@as_subtests("rounds", [1, 3])
@as_subtests("queries, keys", [(24, 24), (5, 24), (24, 5)])
def test_one_cluster_equals_exact_attention(queries, keys, rounds):
    case = _case(queries, keys, cluster=24, rounds=rounds)
    qkv = draw("smyrf", case)
    exact = torch.nn.functional.scaled_dot_product_attention(*qkv)
    out = built("smyrf", case)(*qkv)
    assert_near(out, exact, 1e-12)
    cotangent = torch.randn_like(out)
    pairs = zip(torch.autograd.grad(out, qkv, cotangent), torch.autograd.grad(exact, qkv, cotangent), strict=True)
    for found, right in pairs:
        assert_near(found, right, 1e-12)


def test_transformed_vectors_lie_on_a_sphere_and_are_closer_the_larger_their_product():
    q_TD, k_SD = torch.randn(7, 5, dtype=torch.float64), torch.randn(9, 5, dtype=torch.float64)
    queries, keys = (torch.stack(x) for x in on_sphere(q_TD, k_SD))
    square = queries[0] @ queries[0]
    for points in (queries, keys):
        torch.testing.assert_close(points.square().sum(dim=1), square.expand(len(points)))
    torch.testing.assert_close(torch.cdist(queries, keys).square(), 2 * (square - q_TD @ k_SD.T))


@as_subtests("tokens, clusters", [(1, 1), (7, 3), (8, 3), (9, 3), (64, 64), (65, 64), (127, 64)])
def test_clusters_share_all_tokens_and_their_sizes_differ_by_one_at_most(tokens, clusters):
    shares = Shares(tokens, clusters, device=torch.device("cpu"))
    sizes = shares.chunk_N.bincount(minlength=clusters)
    assert sizes.max() - sizes.min() <= 1
    assert torch.equal(sizes, (~shares.empty_CM).sum(dim=1))
    assert torch.equal(shares.rank_CM[~shares.empty_CM], torch.arange(tokens))
    assert torch.equal(shares.rank_CM[shares.chunk_N, shares.within_N], torch.arange(tokens))


@as_subtests("queries, keys", [(40, 40), (41, 40), (17, 40), (40, 17), (3, 40)])
def test_more_rounds_are_more_keys_for_a_query_and_no_key_is_left_out(queries, keys):
    counts = []
    for rounds in (1, 4):
        case = _case(queries, keys, cluster=5, rounds=rounds, head_dim=keys)
        attention, (q, k, _) = built("smyrf", case), draw("smyrf", case)
        weights = attention(q, k, torch.eye(keys, dtype=torch.float64).expand(2, 2, -1, -1))
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 2, queries, dtype=torch.float64))
        assert (weights > 0).any(dim=2).all()
        counts.append((weights > 0).sum(dim=-1).double().mean())
    assert counts[1] >= counts[0]
    assert counts[1] > counts[0] or queries <= 8


def test_a_round_finds_more_of_the_largest_products_than_chance():
    """Keys in groups: a query's own group is what exact attention looks at."""
    generator = torch.Generator().manual_seed(0)
    centres = 4 * torch.randn(16, 1, 16, generator=generator)
    k_SD = (centres + torch.randn(16, 16, 16, generator=generator)).flatten(0, 1)
    q_TD = (centres + torch.randn(16, 16, 16, generator=generator)).flatten(0, 1)
    order = torch.randperm(256, generator=generator)
    q_TD, k_SD = q_TD[order], k_SD[order]
    case = _case(256, cluster=16, rounds=4, head_dim=256)
    attention = built("smyrf", case)
    padded = [torch.nn.functional.pad(x.double(), (0, 240)).expand(2, 2, -1, -1) for x in (q_TD, k_SD)]
    seen_TS = attention(*padded, torch.eye(256).double().expand(2, 2, -1, -1))[0, 0] > 0
    nearest_T16 = (q_TD @ k_SD.T).topk(16).indices
    assert seen_TS.gather(1, nearest_T16).double().mean() > 2.5 * seen_TS.double().mean()


@as_subtests("queries, keys", [(21, 21), (22, 13), (13, 22)])
def test_both_kernels_agree_with_the_plain_formulation(queries, keys):
    case = _case(queries, keys, cluster=4, rounds=3)
    q, k, v = draw("smyrf", case)
    for kernel in (PLAIN, built("smyrf", case).kernel):
        attention = built("smyrf", case)
        attention.kernel = kernel
        out = attention(q, k, v)[0, 0]
        true = smyrf(q[0, 0], k[0, 0], v[0, 0], attention.directions_DR.double(), size=4)
        assert_near(out, true, 1e-9)
        cotangent = torch.randn_like(out)
        gradients = (torch.autograd.grad(x, (q, k, v), cotangent) for x in (out, true))
        for found, right in zip(*gradients, strict=True):
            assert_near(found, right, 1e-9)


@as_subtests("passes", ["forward", "forward-backward"])
@as_subtests("queries, keys", [(64, 64), (61, 61), (5, 40), (40, 5)])
def test_flops_are_those_that_torch_counts(queries, keys, passes):
    case = _case(queries, keys, cluster=8, rounds=2, dtype="float32", passes=passes, head_dim=8)
    attention, qkv = built("smyrf", case), draw("smyrf", case)
    attention.kernel = PLAIN  # torch counts none for the fused kernel
    with FlopCounterMode(display=False) as counter:
        out = attention(*qkv)
        if passes == "forward-backward":
            out.sum().backward()
    assert Smyrf.flops(case) == counter.get_total_flops()


def test_memory_grows_with_the_length_and_not_with_its_square():
    def peak(length):
        case = _case(length, dtype="float32", cluster=16)
        attention, qkv = built("smyrf", case), draw("smyrf", case)
        return peak_bytes(lambda: torch.autograd.grad(attention(*qkv).sum(), qkv))

    assert peak(8192) < 2.2 * peak(4096)


@as_subtests("mask, reason", [(Mask(causal=True), "later ones too"), (Mask(window=8), "window")])
def test_unsupported_cases_are_refused_with_a_reason(mask, reason):
    with pytest.raises(Unsupported, match=reason):
        check_support(Smyrf.supports, msgspec.structs.replace(_case(16), mask=mask))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_output_and_gradients_equal_those_on_the_cpu():
    case = _case(333, 250, cluster=16)
    results = []
    for device in ("cpu", "cuda"):
        qkv = [x.detach().to(device).requires_grad_() for x in draw("smyrf", case)]
        out = build(Smyrf, msgspec.structs.replace(case, device=device))(*qkv)
        results.append([x.cpu() for x in (out, *torch.autograd.grad(out, qkv, torch.ones_like(out)))])
    for found, right in zip(*results, strict=True):
        assert_near(found, right, 1e-9)
