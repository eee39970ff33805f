"""Longformer's attention beside transformers', with its weights: the same function, weights of float32 there.

Its global positions have projections of their own (section 3.2), which ours, between given projections, has not: here
they are copies of the others.
"""

import pytest
import torch
from parity import FLOAT32, assert_parity, draw

from helpers import peers

HEADS, TOKENS, DIM, WINDOW = 3, 24, 4, 6
WIDTH = HEADS * DIM


@pytest.mark.parametrize("leading", [0, 1, 3, 9])
def test_a_layer_is_the_same_with_so_many_global_positions(leading):
    shape = peers.shape(TOKENS, batch=2, heads=HEADS, dim=DIM)
    of = peers.case("longformer", shape, dtype="float64", width=WINDOW, globals=leading)
    layer, peer = peers.layer(of).double(), longformer()
    copy_weights(peer, layer)
    is_global_BN = (torch.arange(TOKENS) < leading).expand(2, -1)

    def theirs(x_BNE):
        [out_BNE] = peer(
            x_BNE, attention_mask=10_000.0 * is_global_BN, is_index_masked=torch.zeros_like(is_global_BN),
            is_index_global_attn=is_global_BN, is_global_attn=leading > 0,
        )  # fmt: skip
        return layer.projections.join(peers.split(out_BNE, HEADS))

    assert_parity(layer, theirs, *draw(1, 2, TOKENS, WIDTH), tolerance=FLOAT32)


def longformer():
    config = peers.imported("transformers").LongformerConfig(
        hidden_size=WIDTH, num_attention_heads=HEADS, attention_window=[WINDOW], attention_probs_dropout_prob=0.0
    )
    module = peers.imported("transformers.models.longformer.modeling_longformer")
    return module.LongformerSelfAttention(config, layer_id=0).double()


@torch.no_grad()
def copy_weights(peer, layer):
    for own, name in (("wq", "query"), ("wk", "key"), ("wv", "value")):
        one, of_globals = getattr(peer, name), getattr(peer, f"{name}_global")
        getattr(layer.projections, own).copy_(one.weight)
        of_globals.weight.copy_(one.weight)
        for each in (one, of_globals):
            each.bias.zero_()
