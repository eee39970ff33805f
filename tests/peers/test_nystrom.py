"""Nystrom attention beside nystrom-attention and transformers' Nystromformer."""

# B batch, H heads, N tokens, D head dimension, E width (H * D)
import pytest
import torch
from parity import FLOAT64, assert_parity, assert_same, by_the_paper, draw, rows_that_differ

from helpers import peers

BATCH, HEADS, DIM, LANDMARKS, CONV = 2, 3, 4, 6, 5


def ours(tokens, *, conv=CONV, batch=BATCH, heads=HEADS):
    shape = peers.shape(tokens, batch=batch, heads=heads, dim=DIM)
    of = peers.case("nystrom", shape, dtype="float64", landmarks=LANDMARKS, conv=conv)
    return of, peers.ours(of)


def package(attention, *, heads=HEADS):
    """Build nystrom-attention without its projections, with the kernel of ours (if it has one)."""
    made = peers.imported("nystrom_attention").NystromAttention(
        heads * DIM, DIM, heads, num_landmarks=LANDMARKS, residual=attention.kernel is not None,
        residual_conv_kernel=CONV,
    )  # fmt: skip
    made.to_qkv = made.to_out = torch.nn.Identity()
    return _with_kernel(made.double(), "res_conv", attention, heads)


def transformers(tokens, attention):
    """Build Nystromformer's attention with the kernel of ours; the heads are handed over in place of projections."""
    config = peers.imported("transformers").NystromformerConfig(
        hidden_size=HEADS * DIM, num_attention_heads=HEADS, num_landmarks=LANDMARKS, segment_means_seq_len=tokens,
        conv_kernel_size=CONV, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    module = peers.imported("transformers.models.nystromformer.modeling_nystromformer")
    made = module.NystromformerSelfAttention(config).double()
    return _with_kernel(made, "conv", attention, HEADS)


def _with_kernel(peer, name, attention, heads):
    if attention.kernel is not None:
        with torch.no_grad():
            getattr(peer, name).weight.copy_(attention.kernel[:heads, None, :, None])
    return peer


def calling(peer):
    """Call nystrom-attention with heads."""

    def attend(*qkv_BHND):
        out_BNE = peer(torch.cat([peers.joined(x) for x in qkv_BHND], dim=2))
        return peers.split(out_BNE, qkv_BHND[0].shape[1])

    return attend


def calling_transformers(peer):
    def attend(*qkv_BHND):
        peer.query, peer.key, peer.value = (peers.Given(x) for x in qkv_BHND)
        [out_BNE] = peer(peer.query(None))
        return peers.split(out_BNE, HEADS)

    return attend


@pytest.mark.parametrize("conv", [CONV, 0])
def test_one_head_of_one_sequence_is_the_package_s(conv):
    _, attention = ours(24, conv=conv, batch=1, heads=1)
    assert_parity(attention, calling(package(attention, heads=1)), *draw(3, 1, 1, 24, DIM), tolerance=FLOAT64)


def test_many_heads_are_those_that_the_package_makes_one_at_a_time():
    """Together they share the start of its iteration: the largest sum of all heads and sequences divides all of them.

    The paper's formula is of one matrix (eq. 11: |A|_1 |A|_inf): no head depends on another, no sequence on its batch.
    """
    of, attention = ours(24, conv=0)
    qkv = draw(3, BATCH, HEADS, 24, DIM)
    alone = calling(package(attention, heads=1))
    together = calling(package(attention))(*qkv)
    one_by_one = torch.stack(
        [torch.cat([alone(*(x[[b]][:, [h]] for x in qkv)) for h in range(HEADS)], dim=1)[0] for b in range(BATCH)]
    )
    assert_same(attention(*qkv), one_by_one, tolerance=FLOAT64)
    assert_same(attention(*qkv), by_the_paper(attention, of, *qkv), tolerance=FLOAT64)
    differs = rows_that_differ(together, one_by_one, tolerance=1e-6).all(dim=2)
    assert differs.sum() == BATCH * HEADS - 1  # all but the head whose sum is the largest


def test_transformers_is_the_same_where_it_starts_from_each_head_s_own_sum():
    """Its option for that reads a field that is not there, so it is set on the layer; its default is as above."""
    _, attention = ours(24)
    peer = transformers(24, attention)
    qkv = draw(3, BATCH, HEADS, 24, DIM)
    assert rows_that_differ(calling_transformers(peer)(*qkv), attention(*qkv), tolerance=1e-6).any()
    peer.init_option = "exact"
    assert_parity(attention, calling_transformers(peer), *qkv, tolerance=FLOAT64)


def test_as_many_tokens_as_landmarks_are_exact_attention_as_in_transformers():
    _, attention = ours(LANDMARKS)
    peer = transformers(LANDMARKS, attention)
    assert_parity(attention, calling_transformers(peer), *draw(3, BATCH, HEADS, LANDMARKS, DIM), tolerance=FLOAT64)


def test_a_length_that_landmarks_do_not_divide_gets_no_weightless_tokens():
    """The package puts zeros before the sequence, which queries then see: constant values come out smaller."""
    tokens = 20
    of, attention = ours(tokens, conv=0)
    none, ones = torch.zeros(BATCH, HEADS, tokens, DIM, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    values = ones.expand_as(none)
    padded = tokens + -tokens % LANDMARKS
    assert_same(attention(none, none, values), values, tolerance=FLOAT64)
    assert_same(calling(package(attention))(none, none, values), values * tokens / padded, tolerance=FLOAT64)
    qkv = draw(3, BATCH, HEADS, tokens, DIM)
    assert_same(attention(*qkv), by_the_paper(attention, of, *qkv), tolerance=FLOAT64)
