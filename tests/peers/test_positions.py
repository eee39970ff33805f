"""Relative positions beside transformers: T5's buckets and attention, ALiBi's slopes and biases, Shaw's vectors."""

# B batch, H heads, N tokens, D head dimension, E width (H * D)
import pytest
import torch
from parity import FLOAT32, FLOAT64, assert_parity, assert_same, draw
from torch.nn.functional import scaled_dot_product_attention

from attnbench_variants.position.alibi import slopes
from attnbench_variants.position.t5_bias import T5Bias, bucket
from helpers import peers

HEADS, TOKENS, DIM = 6, 40, 4


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (16, 20), (8, 1000), (64, 77)])
def test_t5_s_buckets_are_the_same(buckets, distance, causal):
    theirs = peers.imported("transformers.models.t5.modeling_t5").T5Attention._relative_position_bucket
    away = torch.arange(-2000, 2001)
    own = bucket(away, T5Bias.Options(buckets=buckets, distance=distance), causal=causal)
    assert torch.equal(own, theirs(away, not causal, buckets, distance))


@pytest.mark.parametrize("causal", [False, True])
def test_t5_s_attention_is_the_same_with_its_weights_and_unscaled(causal):
    shape = peers.shape(TOKENS, batch=2, heads=HEADS, dim=DIM)
    layer = peers.layer(peers.case("t5-bias", shape, causal=causal, dtype="float64", scale=False)).double()
    config = peers.imported("transformers").T5Config(
        d_model=HEADS * DIM, d_kv=DIM, num_heads=HEADS, is_decoder=causal, dropout_rate=0.0
    )
    module = peers.imported("transformers.models.t5.modeling_t5")
    peer = module.T5Attention(config, has_relative_attention_bias=True, layer_idx=0).double()
    with torch.no_grad():
        for own, name in (("wq", "q"), ("wk", "k"), ("wv", "v"), ("wo", "o")):
            getattr(layer.projections, own).copy_(getattr(peer, name).weight)
        layer.attention.bias_HU.copy_(peer.relative_attention_bias.weight.mT)
    hidden_NN = torch.full((TOKENS, TOKENS), -torch.inf, dtype=torch.float64).triu(1) if causal else torch.zeros(1)
    assert_parity(
        layer, lambda x: peer(x, mask=hidden_NN.expand(2, 1, TOKENS, TOKENS))[0], *draw(1, 2, TOKENS, HEADS * DIM),
        tolerance=FLOAT32,
    )  # fmt: skip


@pytest.mark.parametrize("heads", [1, 2, 6, 8, 12, 16, 20])
def test_alibi_s_slopes_are_bloom_s(heads):
    build = peers.imported("transformers.models.bloom.modeling_bloom").build_alibi_tensor
    theirs_H1N = build(torch.ones(1, 2), heads, torch.float64)
    assert_same(torch.tensor(slopes(heads), dtype=torch.float64), theirs_H1N[:, 0, 1], tolerance=1e-6)


@pytest.mark.parametrize("heads", [1, 2, 6, 8, 12, 16, 20])
def test_alibi_s_slopes_are_mpt_s(heads):
    build = peers.imported("transformers.models.mpt.modeling_mpt").build_mpt_alibi_tensor
    theirs_H1N = build(heads, 2)
    assert_same(torch.tensor(slopes(heads), dtype=torch.float64), -theirs_H1N[:, 0, 0].double(), tolerance=1e-6)


def test_alibi_is_exact_attention_with_bloom_s_biases():
    """Bloom's grow with the key's position, ours fall with its distance: in a row they differ by a constant."""
    build = peers.imported("transformers.models.bloom.modeling_bloom").build_alibi_tensor
    bias_HN1 = build(torch.ones(1, TOKENS), HEADS, torch.float64)
    hidden_NN = torch.full((TOKENS, TOKENS), -torch.inf, dtype=torch.float64).triu(1)
    shape = peers.shape(TOKENS, batch=2, heads=HEADS, dim=DIM)
    assert_parity(
        peers.ours(peers.case("alibi", shape, causal=True, dtype="float64")),
        lambda q, k, v: scaled_dot_product_attention(q, k, v, attn_mask=bias_HN1[None] + hidden_NN),
        *draw(3, 2, HEADS, TOKENS, DIM),
        tolerance=1e-6,  # their slopes are of float32
    )


@pytest.mark.parametrize("clip", [1, 5, 64])
def test_shaw_s_vectors_of_keys_are_wav2vec2_bert_s(clip):
    """Which has one for all heads and none for values: here those are zeros. It has biases, here zeros too."""
    config = peers.imported("transformers").Wav2Vec2BertConfig(
        hidden_size=HEADS * DIM, num_attention_heads=HEADS, position_embeddings_type="relative_key",
        left_max_position_embeddings=clip, right_max_position_embeddings=clip, attention_dropout=0.0,
        attn_implementation="eager",
    )  # fmt: skip
    module = peers.imported("transformers.models.wav2vec2_bert.modeling_wav2vec2_bert")
    peer = module.Wav2Vec2BertSelfAttention(config).double()
    shape = peers.shape(TOKENS, batch=2, heads=HEADS, dim=DIM)
    layer = peers.layer(peers.case("shaw", shape, dtype="float64", clip=clip, shared=True)).double()
    with torch.no_grad():
        for own, name in (("wq", "linear_q"), ("wk", "linear_k"), ("wv", "linear_v"), ("wo", "linear_out")):
            getattr(layer.projections, own).copy_(getattr(peer, name).weight)
            getattr(peer, name).bias.zero_()
        layer.attention.keys_HRD.copy_(peer.distance_embedding.weight)
        layer.attention.values_HRD.zero_()
    assert_parity(layer, lambda x: peer(x)[0], *draw(1, 2, TOKENS, HEADS * DIM), tolerance=FLOAT64)
