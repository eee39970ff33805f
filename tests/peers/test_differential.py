"""Differential attention beside transformers' DiffLlama, with its weights: the same function.

A head of ours is a pair of its heads, h and h + H: their queries and keys are our halves, their values are ours whole.
"""

# B batch, T tokens, H heads (of ours), D head dimension, d = D / 2, E width (H * D)
import pytest
import torch
from parity import FLOAT32, assert_parity, draw

from helpers import peers

HEADS, TOKENS, DIM = 3, 12, 8
WIDTH = HEADS * DIM


@pytest.mark.parametrize("number", [1, 4])
def test_a_layer_is_the_same_at_any_depth(number):
    shape = peers.shape(TOKENS, batch=2, heads=HEADS, dim=DIM)
    layer = peers.layer(peers.case("differential", shape, causal=True, dtype="float64", layer=number)).double()
    peer = diffllama(number)
    copy_weights(peer, layer)
    unturned = torch.ones(1, TOKENS, DIM // 2), torch.zeros(1, TOKENS, DIM // 2)
    hidden_TT = torch.full((TOKENS, TOKENS), -torch.inf, dtype=torch.float64).triu(1)

    def theirs(x_BTE):
        return peer(x_BTE, position_embeddings=unturned, attention_mask=hidden_TT)[0]

    assert_parity(layer, theirs, *draw(1, 2, TOKENS, WIDTH), tolerance=FLOAT32)


def diffllama(number):
    """Build the attention of a layer, counted from one; the package counts from zero."""
    config = peers.imported("transformers").DiffLlamaConfig(
        hidden_size=WIDTH, num_attention_heads=2 * HEADS, num_key_value_heads=2 * HEADS, rms_norm_eps=1e-5,
        attn_implementation="eager",
    )  # fmt: skip
    module = peers.imported("transformers.models.diffllama.modeling_diffllama")
    return module.DiffLlamaAttention(config, layer_idx=number - 1).double()


@torch.no_grad()
def copy_weights(peer, layer):
    for own, name in (("wq", "q_proj"), ("wk", "k_proj"), ("wv", "v_proj")):
        pairs_HsdE = getattr(peer, name).weight.view(2, HEADS, DIM // 2, WIDTH).transpose(0, 1)
        getattr(layer.projections, own).copy_(pairs_HsdE.reshape(WIDTH, WIDTH))
    layer.projections.wo.copy_(peer.o_proj.weight)
    exponents = (peer.lambda_q1, peer.lambda_k1, peer.lambda_q2, peer.lambda_k2)
    layer.attention.exponents.copy_(torch.stack(exponents).view(2, 2, -1))
