"""Linformer beside the package linformer, with its weights: the same function."""

# B batch, H heads, N tokens, D head dimension, E width (H * D), K columns
import pytest
import torch
from msgspec.structs import replace
from parity import FLOAT64, assert_parity, draw

from helpers import peers

SHAPE = peers.shape(20, batch=2, heads=4, dim=4)
WIDTH = SHAPE.heads * SHAPE.head_dim


def pair(shape=SHAPE, *, k, **theirs):
    """Build the package's layer, and ours with its weights, in float64."""
    peer = peers.linformer_layer(shape, k=k, **theirs).double()
    layer = peers.layer(peers.case("linformer", shape, dtype="float64", k=k)).double()
    copies = {
        layer.projections.wq: peer.to_q.weight,
        layer.projections.wk: peer.to_k.weight,
        layer.projections.wv: (peer.to_k if peer.share_kv else peer.to_v).weight,
        layer.projections.wo: peer.to_out.weight,
        layer.attention.project_keys: peer.proj_k.mT,
        layer.attention.project_values: (peer.proj_k if peer.share_kv else peer.proj_v).mT,
        peer.to_out.bias: torch.zeros(WIDTH),  # ours has none
    }
    with torch.no_grad():
        for to, what in copies.items():
            to.copy_(what)
    return layer, peer


@pytest.mark.parametrize(("k", "sequence_first"), [(3, True), (20, False)])
def test_a_layer_is_the_same_whichever_is_projected_first(k, sequence_first):
    layer, peer = pair(k=k)
    assert layer.attention._sequence_first is sequence_first
    assert_parity(layer, peer, *draw(1, 2, 20, WIDTH), tolerance=FLOAT64)


def test_the_mechanism_alone_is_the_same_between_the_projections():
    layer, peer = pair(k=3)

    def ours(x_BNE):
        return layer.projections.join(layer.attention(*layer.projections.to_heads(x_BNE, x_BNE)))

    assert_parity(ours, peer, *draw(1, 2, 20, WIDTH), tolerance=FLOAT64)


def test_one_key_head_for_all_queries_is_the_same():
    layer, peer = pair(replace(SHAPE, kv_heads=1), k=3, one_kv_head=True)
    assert_parity(layer, peer, *draw(1, 2, 20, WIDTH), tolerance=FLOAT64)


def test_other_tokens_as_keys_are_the_same():
    layer, peer = pair(replace(SHAPE, seq_q=7), k=3)
    [x], [y] = draw(1, 2, 7, WIDTH), draw(1, 2, 20, WIDTH, seed=1)
    assert_parity(layer, peer, x, y, tolerance=FLOAT64)


def test_shared_keys_and_values_are_the_package_s_with_one_weight_for_both():
    """Its share_kv makes the values the keys. The paper shares E and F only (section 4: E = F), as key-value does."""
    layer, peer = pair(k=3, share_kv=True)
    x, *_ = draw(1, 2, 20, WIDTH)
    assert_parity(layer, peer, x, tolerance=FLOAT64)
    with torch.no_grad():
        before = layer(x)
        layer.projections.wv.neg_()
        assert torch.equal(layer(x), -before)
