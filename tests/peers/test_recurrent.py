"""Recurrences beside flash-linear-attention's naive forms, with the same gates. Most compute in float32 whatever comes.

Its delta rules divide q by sqrt(D) besides, which the norm of a head's output cancels; the papers do not, nor do ours.
"""

# B batch, H heads, N tokens, D head dimension
import pytest
from parity import FLOAT32, FLOAT64, assert_parity, draw

from attnbench_variants.linear.delta_rule import unit_features
from helpers import peers

BATCH, HEADS, TOKENS, DIM = 2, 3, 64, 8
SHAPE = peers.shape(TOKENS, batch=BATCH, heads=HEADS, dim=DIM)


def ours(name, **options):
    return peers.ours(peers.case(name, SHAPE, causal=True, dtype="float64", **options))


def naive(module, function):
    return getattr(peers.imported(f"fla.ops.{module}.naive"), function)


def tokens_first(*tensors_BHNX):
    return [x.transpose(1, 2) for x in tensors_BHNX]


def qkv():
    return draw(3, BATCH, HEADS, TOKENS, DIM)


def test_retention_is_the_same():
    assert_parity(ours("retention", norm="none"), naive("retention", "naive_retention"), *qkv(), tolerance=FLOAT32)


def test_gated_linear_attention_is_the_same_given_the_gates():
    attention, recurrence = ours("gla", norm="none"), naive("gla", "naive_recurrent_gla")

    def theirs(q, k, v):
        out, _ = recurrence(*tokens_first(q, k, v, attention.gates(k)))
        return out.transpose(1, 2)

    assert_parity(attention, theirs, *qkv(), tolerance=FLOAT32)


@pytest.mark.parametrize(
    ("function", "tolerance"), [("delta_rule_recurrence", FLOAT32), ("delta_rule_chunkwise", FLOAT64)]
)
@pytest.mark.parametrize("activation", ["silu", "identity"])
def test_the_delta_rule_is_the_same_given_how_much_is_written(function, tolerance, activation):
    attention, rule = ours("deltanet", norm="none", activation=activation), naive("delta_rule", function)

    def theirs(q, k, v):
        q, f = (unit_features(x, activation=activation) for x in (q, k))
        return rule(q * DIM**0.5, f, v, attention.strengths(k)[..., 0])[0]

    assert_parity(attention, theirs, *qkv(), tolerance=tolerance)


@pytest.mark.parametrize("function", ["naive_recurrent_gated_delta_rule", "naive_chunk_gated_delta_rule"])
def test_the_gated_delta_rule_is_the_same_given_gates_and_how_much_is_written(function):
    attention, rule = ours("gated-deltanet", norm="none"), naive("gated_delta_rule", function)

    def theirs(q, k, v):
        q, f = (unit_features(x, activation="silu") for x in (q, k))
        beta, g = (x[..., 0] for x in (attention.strengths(k), attention.gates(k)))
        q, f, v, beta, g = tokens_first(q, f, v, beta, g)
        out, _ = rule(q=q, k=f, v=v, beta=beta, g=g, scale=1.0)
        return out.transpose(1, 2)

    assert_parity(attention, theirs, *qkv(), tolerance=FLOAT32)


@pytest.mark.parametrize(
    ("function", "options"), [("naive_parallel_based", {}), ("naive_chunk_based", {"chunk_size": 16})]
)
def test_based_s_taylor_weights_are_the_same_given_the_projections(function, options):
    """It adds 1e-6 to the sum that it divides by, which is at least one half."""
    attention, attend = ours("based", feature_dim=4), naive("based", function)

    def theirs(q, k, v):
        return attend(q @ attention.project_queries, k @ attention.project_keys, v, **options)

    assert_parity(attention, theirs, *qkv(), tolerance=FLOAT32)
