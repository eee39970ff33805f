"""Reformer beside reformer-pytorch and transformers.

Both look back further than the paper: from the first chunk of a round to the last chunk of the round before it, from
the first round to the last chunk of all. Equation 5 has no chunk there: s_j // m is s_i // m or one less, and s counts
the tokens of one round. A neighbour in that chunk hashes as far off as can be. Ours looks back at nothing.
"""

# B batch, H heads, R rounds, N tokens, M of a chunk, D head dimension, F rotated axes, X = B * H, Z = R * N
import pytest
import torch
from parity import FLOAT64, assert_parity, assert_same, by_the_paper, draw, rows_that_differ

from helpers import peers

BATCH, HEADS, TOKENS, DIM, BUCKET = 2, 3, 32, 16, 4
SHAPE = peers.shape(TOKENS, batch=BATCH, heads=HEADS, dim=DIM)


def ours(*, rounds, causal=False):
    of = peers.case("reformer", SHAPE, causal=causal, dtype="float64", rounds=rounds, bucket=BUCKET)
    return of, peers.ours(of)


def reformer_pytorch(attention):
    """It divides scores by sqrt(D), ours does not: four times longer queries, and keys of length one all the same."""
    attend = peers.reformer_pytorch(bucket=BUCKET, rounds=attention.options.rounds, causal=attention.causal)
    return lambda qk, v: drawing(attention.rotations, attend, qk * DIM**0.5, v)


def transformers(attention):
    rounds, causal = attention.options.rounds, attention.causal
    attend = peers.transformers_lsh(SHAPE, bucket=BUCKET, rounds=rounds, causal=causal)
    return lambda qk, v: drawing(attention.rotations, attend, qk, v)


def drawing(rotations, call, *inputs):
    """Call a package so that it draws the rotations of ours."""
    rotations_DRF = torch.cat(list(rotations), dim=2).double()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", lambda sizes, **_: rotations_DRF.expand(sizes))
        return call(*inputs)


# transformers adds 1e-6 to the squares' mean that it divides keys by.
PACKAGES = [pytest.param(reformer_pytorch, FLOAT64, id="package"), pytest.param(transformers, 1e-5, id="transformers")]
each_package = pytest.mark.parametrize(("package", "tolerance"), PACKAGES)
each_number_of_rounds = pytest.mark.parametrize("rounds", [1, 3])


def of_first_chunks(buckets_BHRN):
    """Mark the rows that are in the first chunk of some round."""
    first_BHRM = buckets_BHRN.argsort(dim=-1, stable=True)[..., :BUCKET]
    return torch.zeros_like(buckets_BHRN, dtype=torch.bool).scatter(-1, first_BHRM, True).any(dim=2)


@each_number_of_rounds
def test_hashes_are_those_of_reformer_pytorch_given_the_same_rotations(rounds):
    _, attention = ours(rounds=rounds)
    [qk_BHND] = draw(1, BATCH, HEADS, TOKENS, DIM)
    peer = peers.imported("reformer_pytorch").LSHAttention(bucket_size=BUCKET, n_hashes=rounds)
    theirs_XZ = drawing(attention.rotations, peer.hash_vectors, TOKENS // BUCKET, qk_BHND.flatten(0, 1))
    theirs_BHRN = theirs_XZ.view(BATCH, HEADS, rounds, TOKENS)
    first_of_round_R1 = torch.arange(rounds)[:, None] * (TOKENS // BUCKET)
    assert torch.equal(attention.buckets(qk_BHND), theirs_BHRN - first_of_round_R1)


@each_package
@each_number_of_rounds
@pytest.mark.parametrize("causal", [False, True])
def test_rows_that_look_back_within_every_round_are_the_same(package, tolerance, rounds, causal):
    _, attention = ours(rounds=rounds, causal=causal)
    qk, v = draw(2, BATCH, HEADS, TOKENS, DIM)
    same = ~of_first_chunks(attention.buckets(qk))
    theirs = package(attention)
    assert same.sum() > same.numel() / 2
    assert_parity(
        lambda qk, v: attention(qk, qk, v)[same], lambda qk, v: theirs(qk, v)[same], qk, v, tolerance=tolerance
    )


@each_package
@each_number_of_rounds
def test_rows_of_a_first_chunk_differ_as_only_packages_look_beyond_their_round(package, tolerance, rounds):
    of, attention = ours(rounds=rounds)
    qk, v = draw(2, BATCH, HEADS, TOKENS, DIM)
    theirs = package(attention)
    differs = rows_that_differ(attention(qk, qk, v), theirs(qk, v), tolerance=10 * tolerance)
    assert torch.equal(differs, of_first_chunks(attention.buckets(qk)))
    assert_same(attention(qk, qk, v), by_the_paper(attention, of, qk, qk, v), tolerance=FLOAT64)


@each_package
def test_a_value_of_the_last_chunk_moves_the_first_chunk_of_packages_only(package, tolerance):
    _, attention = ours(rounds=1)
    qk, v = draw(2, BATCH, HEADS, TOKENS, DIM)
    last_BHM = attention.buckets(qk)[:, :, 0].argsort(dim=-1, stable=True)[..., -BUCKET:]
    moved = v.scatter_add(2, last_BHM[..., None].expand(-1, -1, -1, DIM), torch.ones_like(v[:, :, :BUCKET]))
    theirs = package(attention)
    first = of_first_chunks(attention.buckets(qk))
    assert torch.equal(attention(qk, qk, moved)[first], attention(qk, qk, v)[first])
    assert rows_that_differ(theirs(qk, moved), theirs(qk, v), tolerance=tolerance)[first].all()


def test_above_128_buckets_a_bucket_is_the_pair_of_hashes_that_transformers_takes():
    """The pair is numbered by its first hash first, there by its second: the same buckets in another order."""
    tokens, rounds = 260, 2
    shape = peers.shape(tokens, batch=BATCH, heads=HEADS, dim=DIM)
    attention = peers.ours(peers.case("reformer", shape, dtype="float64", rounds=rounds, bucket=1))
    first, second = (2 * rotations_DRF.shape[2] for rotations_DRF in attention.rotations)
    config = peers.imported("transformers").ReformerConfig(
        hidden_size=HEADS * DIM, num_attention_heads=HEADS, attention_head_size=DIM, num_buckets=[first, second]
    )
    peer = peers.imported("transformers.models.reformer.modeling_reformer").LSHSelfAttention(config)
    [qk] = draw(1, BATCH, HEADS, tokens, DIM)
    theirs = drawing(attention.rotations, peer._hash_vectors, qk, rounds, None).view(BATCH, HEADS, rounds, tokens)
    buckets = attention.buckets(qk)
    assert buckets.amax() > 128
    assert torch.equal(buckets // second + first * (buckets % second), theirs % (first * second))
