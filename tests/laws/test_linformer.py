import msgspec
import pytest
import torch

from attnbench import Unsupported
from helpers.subtests import as_subtests
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw, variant


def _linformer(options, **changes):
    case = case_for("linformer", WORKLOADS["full-grouped"], options, **changes)
    return case, built("linformer", case)


@as_subtests("sharing", ["headwise", "key-value", "layerwise", "none"])
def test_as_many_columns_as_keys_and_identity_projections_are_exact_attention(sharing):
    case, attention = _linformer({"k": 13, "sharing": sharing})
    for projection in (attention.project_keys, attention.project_values):
        projection.data.copy_(torch.eye(13).expand_as(projection))
    qkv = draw("linformer", case)
    assert_near(attention(*qkv), built("vanilla", msgspec.structs.replace(case, options={}))(*qkv), 1e-12)


def test_sharing_decides_how_many_projections_are_learned():
    case = case_for("linformer", WORKLOADS["full"])
    for sharing, count in (("key-value", 1), ("headwise", 2), ("none", 2 * case.shape.kv_heads)):
        attention = built("linformer", case_for("linformer", WORKLOADS["full"], {"k": 6, "sharing": sharing}))
        assert sum(p.numel() for p in attention.parameters()) == count * 6 * case.shape.seq_k


def _stack(sharing, *, layers=3):
    """Build layers as a model does: a seed each, the first told to the others."""
    cases = [_linformer({"k": 6, "sharing": sharing}, seed=seed)[0] for seed in range(layers)]
    stack = [built("linformer", case) for case in cases]
    for later in stack[1:]:
        later.share(stack[0])
    return cases[0], torch.nn.ModuleList(stack)


# The paper's own example: of 12 layers, 24, 12 and 1 matrices.
@as_subtests("sharing, matrices", [("headwise", 24), ("key-value", 12), ("layerwise", 1)])
def test_layers_share_their_projections_as_the_paper_counts_them(sharing, matrices):
    case, stack = _stack(sharing, layers=12)
    assert sum(p.numel() for p in stack.parameters()) == matrices * 6 * case.shape.seq_k


def test_a_matrix_that_layers_share_learns_from_each_of_them():
    case, stack = _stack("layerwise")
    q, k, v = (x.detach() for x in draw("linformer", case))
    (shared,) = stack.parameters()

    def slow(weights):
        """Run the stack by its equation: each layer's answer asks the next one."""
        x = q
        for _ in stack:
            short_keys, short_values = ((weights @ y).repeat_interleave(2, dim=1) for y in (k, v))
            x = torch.softmax(x @ short_keys.mT / x.shape[-1] ** 0.5, dim=-1) @ short_values
        return x

    x = q
    for layer in stack:
        x = layer(x, k, v)
    weights = shared.detach().clone().requires_grad_()
    assert_near(x, slow(weights), 1e-12)
    (learned,), (expected,) = (
        torch.autograd.grad(y.square().sum(), w) for y, w in ((x, shared), (slow(weights), weights))
    )
    assert_near(learned, expected, 1e-12)


def test_the_seed_draws_the_projections_and_every_dtype_has_the_same():
    _, first = _linformer({})
    _, again = _linformer({})
    _, other = _linformer({}, seed=4)
    _, narrow = _linformer({}, dtype="bfloat16")
    assert torch.equal(first.project_keys, again.project_keys)
    assert not torch.equal(first.project_keys, first.project_values)
    assert not torch.equal(first.project_keys, other.project_keys)
    assert torch.equal(first.project_keys.bfloat16(), narrow.project_keys)


def test_projected_keys_keep_the_size_of_the_keys():
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=4096, seq_k=4096)
    attention = built("linformer", case_for("linformer", WORKLOADS["full"], {}, shape=shape))
    assert 0.9 < (attention.project_keys @ torch.randn(4096, 64, dtype=torch.float64)).std() < 1.1


def test_projections_are_learned():
    case, attention = _linformer({"k": 6})
    attention(*draw("linformer", case)).sum().backward()
    assert all(parameter.grad.norm() > 0 for parameter in attention.parameters())


def test_causal_windowed_and_decode_cases_are_refused():
    for workload in ("causal", "full-window", "full-decode"):
        with pytest.raises(Unsupported, match="whole sequence"):
            built("linformer", case_for("linformer", WORKLOADS[workload]))


def test_the_cost_does_not_grow_with_the_product_of_queries_and_keys():
    def flops(length):
        shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=length, seq_k=length)
        return variant("linformer").flops(case_for("linformer", WORKLOADS["full"], {}, shape=shape))

    assert flops(8192) == 2 * flops(4096)
