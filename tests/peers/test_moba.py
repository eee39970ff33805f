"""Mixture of block attention beside flash-linear-attention's attention to selected blocks, given our selection."""

# B batch, H heads, N tokens, D head dimension, K chosen blocks
import pytest
import torch
from parity import FLOAT32, assert_parity, draw

from helpers import peers

BATCH, HEADS, TOKENS, DIM, BLOCK = 2, 3, 30, 8, 4


@pytest.mark.parametrize("topk", [1, 3, 8])
def test_attention_to_the_chosen_blocks_is_the_same(topk):
    """No block counts twice, and of its own block a query sees what is earlier."""
    shape = peers.shape(TOKENS, batch=BATCH, heads=HEADS, dim=DIM)
    attention = peers.ours(peers.case("moba", shape, causal=True, dtype="float64", block=BLOCK, topk=topk))
    select = peers.imported("fla.ops.nsa.naive").naive_nsa_selection
    own_N1 = torch.arange(TOKENS)[:, None] // BLOCK

    def theirs(q, k, v):
        chosen_BHNK = attention.choose(q.flatten(0, 1), k.flatten(0, 1)).unflatten(0, (BATCH, HEADS))
        blocks_BHNK = torch.cat([chosen_BHNK, own_N1.expand(BATCH, HEADS, -1, -1)], dim=3)
        q, k, v, blocks = (x.transpose(1, 2) for x in (q, k, v, blocks_BHNK))
        return select(q, k, v, blocks, BLOCK).transpose(1, 2)

    assert_parity(attention, theirs, *draw(3, BATCH, HEADS, TOKENS, DIM), tolerance=FLOAT32)
