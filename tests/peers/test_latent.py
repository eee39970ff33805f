"""Latent attention beside transformers' DeepSeek-V2, with its weights: the same function, computed in float32 there."""

# B batch, T tokens, H heads, D head dimension, R rotary features, E width (H * D)
import pytest
import torch
from msgspec.structs import replace
from parity import FLOAT32, assert_parity, draw

from helpers import peers

HEADS, TOKENS, DIM, ROTARY, RANK, QUERY_RANK = 3, 12, 6, 4, 7, 5
WIDTH = HEADS * DIM


@pytest.mark.parametrize("query_rank", [None, QUERY_RANK])
@pytest.mark.parametrize("causal", [False, True])
def test_a_layer_is_the_same(query_rank, causal):
    options = {"rank": RANK, "rotary": ROTARY} | ({} if query_rank is None else {"query_rank": query_rank})
    shape = peers.shape(TOKENS, batch=2, heads=HEADS, dim=DIM)
    of = peers.case("latent", shape, causal=causal, dtype="float64", **options)
    layer = peers.ours(replace(of, level="layer"))
    peer, turns = deepseek(query_rank)
    copy_weights(peer, layer)
    hidden_TT = torch.full((TOKENS, TOKENS), -torch.inf, dtype=torch.float64).triu(1) if causal else None

    def theirs(x_BTE):
        return peer(x_BTE, attention_mask=hidden_TT, position_embeddings=turns)[0]

    assert_parity(layer, theirs, *draw(1, 2, TOKENS, WIDTH), tolerance=FLOAT32)


def deepseek(query_rank):
    """Build DeepSeek-V2's attention, and the turns of the positions as complex numbers."""
    config = peers.imported("transformers").DeepseekV2Config(
        hidden_size=WIDTH, num_attention_heads=HEADS, num_key_value_heads=HEADS, q_lora_rank=query_rank,
        kv_lora_rank=RANK, qk_nope_head_dim=DIM, qk_rope_head_dim=ROTARY, v_head_dim=DIM, head_dim=ROTARY,
        attn_implementation="eager",
    )  # fmt: skip
    module = peers.imported("transformers.models.deepseek_v2.modeling_deepseek_v2")
    positions_1T = torch.arange(TOKENS)[None]
    turns = module.DeepseekV2RotaryEmbedding(config)(torch.zeros(1), positions_1T)
    return module.DeepseekV2Attention(config, layer_idx=0).double(), turns


@torch.no_grad()
def copy_weights(peer, layer):
    """Give our layer the peer's weights; its rotary pairs are neighbours, ours the two halves of the features."""
    paired = torch.arange(ROTARY).view(-1, 2).mT.flatten()
    queries = peer.q_proj if peer.q_a_proj is None else peer.q_b_proj
    up_q_HFX = queries.weight.unflatten(0, (HEADS, DIM + ROTARY))
    layer.up_q.copy_(torch.cat([up_q_HFX[:, :DIM], up_q_HFX[:, DIM:][:, paired]], dim=1).flatten(0, 1))
    if peer.q_a_proj is not None:
        layer.down_q.copy_(peer.q_a_proj.weight)
    down = peer.kv_a_proj_with_mqa.weight
    layer.down.copy_(torch.cat([down[:RANK], down[RANK:][paired]]))
    up_k_HDC, up_v_HDC = peer.kv_b_proj.weight.unflatten(0, (HEADS, 2 * DIM)).chunk(2, dim=1)
    layer.up_k.copy_(up_k_HDC.flatten(0, 1))
    layer.up_v.copy_(up_v_HDC.flatten(0, 1))
    layer.out.copy_(peer.o_proj.weight)
