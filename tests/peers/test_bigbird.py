"""BigBird beside transformers' block-sparse attention, with the same random blocks: the same pattern.

Its global blocks are the first and the last, ours the leading ones: we are given its last block second.
"""

# B batch, H heads, N tokens, D head dimension, E width (H * D), M blocks that are not global, A random ones of each
import pytest
import torch
from parity import FLOAT64, assert_parity, assert_same, by_the_paper, draw, rows_that_differ

from helpers import peers

BATCH, HEADS, BLOCKS, BLOCK, DIM, RANDOM = 2, 3, 12, 4, 4, 2
TOKENS, WIDTH = BLOCKS * BLOCK, HEADS * DIM
LAST_SECOND = torch.arange(TOKENS).view(BLOCKS, BLOCK)[[0, BLOCKS - 1, *range(1, BLOCKS - 1)]].flatten()


@pytest.fixture
def of():
    shape = peers.shape(TOKENS, batch=BATCH, heads=HEADS, dim=DIM)
    return peers.case("bigbird", shape, dtype="float64", block=BLOCK, globals=2, neighbours=1, random=RANDOM)


def bigbird():
    config = peers.imported("transformers").BigBirdConfig(
        hidden_size=WIDTH, num_attention_heads=HEADS, block_size=BLOCK, num_random_blocks=RANDOM,
        max_position_embeddings=TOKENS, use_bias=False,
    )  # fmt: skip
    module = peers.imported("transformers.models.big_bird.modeling_big_bird")
    peer = module.BigBirdBlockSparseAttention(config).double()
    masks = module.BigBirdModel.create_masks_for_block_sparse_attn(torch.ones(BATCH, TOKENS).double(), BLOCK)
    blocks, band, rows, keys = masks
    names = {"from_blocked_mask": blocks, "to_blocked_mask": blocks, "band_mask": band, "from_mask": rows}
    return peer, names | {"to_mask": keys}


def calling(peer, masks):
    """Call it with heads, in our order of the blocks."""
    back = LAST_SECOND.argsort()

    def attend(*qkv_BHND):
        peer.query, peer.key, peer.value = (peers.Given(x[:, :, back]) for x in qkv_BHND)
        out_BNE, _ = peer(peer.query(None), **masks)
        return peers.split(out_BNE[:, LAST_SECOND], HEADS)

    return attend


def test_attention_is_the_same_given_the_random_blocks(of, monkeypatch):
    attention = peers.ours(of)
    peer, masks = bigbird()
    of_our_lists = [1 + numbers_MA.numpy() for numbers_MA in attention.lists.numbers]
    monkeypatch.setattr(peer, "_bigbird_block_rand_mask_with_head", lambda **_: of_our_lists)
    assert_parity(attention, calling(peer, masks), *draw(3, BATCH, HEADS, TOKENS, DIM), tolerance=FLOAT64)


def test_without_training_its_random_blocks_are_the_first_one_which_counts_again(of):
    """There it draws nothing and takes block 0 for each, which all see anyway. In one softmax a key counts once."""
    attention = peers.ours(of)
    peer, masks = bigbird()
    q, k, v = draw(3, BATCH, HEADS, TOKENS, DIM)
    alike = torch.zeros_like(q)
    theirs = calling(peer.eval(), masks)(alike, k, v)
    assert_same(attention(alike, k, v), by_the_paper(attention, of, alike, k, v), tolerance=FLOAT64)
    assert rows_that_differ(attention(alike, k, v), theirs, tolerance=1e-6)[:, :, 2 * BLOCK :].all()
    middle = slice(5 * BLOCK, 6 * BLOCK)  # with neighbours on either side, in our order of the blocks
    seen = [*[0] * (1 + RANDOM), 1, 4, 5, 6]
    average = v.unflatten(2, (BLOCKS, BLOCK))[:, :, seen].flatten(2, 3).mean(dim=2, keepdim=True)
    assert_same(theirs[:, :, middle], average.expand(-1, -1, BLOCK, -1), tolerance=FLOAT64)
