import msgspec
import torch

from attnbench import Mask
from attnbench_variants.linear.based import Taylor
from helpers.subtests import as_subtests
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw


def _case(length, *, causal=False, **options):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=length, seq_k=length)
    return case_for("based", WORKLOADS["full"], options, shape=shape, mask=Mask(causal=causal))


@as_subtests("dim", [1, 2, 16])
def test_products_of_features_are_the_taylor_series_of_the_exponential(dim):
    q, k = (torch.randn(1, 30, dim, dtype=torch.float64) for _ in range(2))
    features = Taylor(dim, device="cpu")
    products = features.queries(q, 0) @ features.keys(k, 0).mT
    scores = q @ k.mT
    assert_near(products, 1 + scores + scores**2 / 2, 1e-13)
    assert features.keys(k, 0).shape[-1] == 1 + dim + dim * (dim + 1) // 2


@as_subtests("causal", [True, False])
def test_small_scores_give_exact_attention_on_the_projected_queries_and_keys(causal):
    case = _case(30, causal=causal, feature_dim=4)
    attention, (q, k, v) = built("based", case), (x.detach() for x in draw("based", case))
    q = q / 100
    exact = built("vanilla", msgspec.structs.replace(case, options={}))
    wanted = exact(q @ attention.project_queries.detach(), k @ attention.project_keys.detach(), v)
    with torch.no_grad():
        assert_near(attention(q, k, v), wanted, 1e-6)


def test_the_seed_draws_a_projection_for_each_head_and_every_dtype_has_the_same():
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, heads=4, kv_heads=2)
    first, again, other, narrow = (
        built("based", case_for("based", WORKLOADS["full"], {}, shape=shape, **changes))
        for changes in ({}, {}, {"seed": 4}, {"dtype": "bfloat16"})
    )
    assert first.project_queries.shape == (4, 4, 16)
    assert first.project_keys.shape == (2, 4, 16)
    assert torch.equal(first.project_queries, again.project_queries)
    assert not torch.equal(first.project_queries, other.project_queries)
    assert torch.equal(first.project_keys.bfloat16(), narrow.project_keys)


@as_subtests("causal", [True, False])
def test_projections_are_learned_even_where_the_inputs_need_no_gradient(causal):
    case = _case(100, causal=causal)
    attention, qkv = built("based", case), [x.detach() for x in draw("based", case)]
    attention(*qkv)[:, :, 1:].square().sum().backward()
    assert all(parameter.grad.norm() > 0 for parameter in attention.parameters())
