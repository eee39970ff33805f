"""The window beside local-attention, whose exact window sees `window_size` keys and the query's own.

Its default window is not exact: a query in place p of its block sees window_size + p + 1 keys, its block's up to its
own and the whole block before. In the papers every query sees as many (Beltagy et al. 2020, section 3.1).
"""

import pytest
from parity import FLOAT64, assert_parity, assert_same, by_the_paper, draw, rows_that_differ

from helpers import peers

TOKENS, WIDTH = 30, 6
SHAPE = peers.shape(TOKENS, batch=2, heads=3, dim=4)


def ours(*, width, causal=True):
    of = peers.case("window", SHAPE, causal=causal, dtype="float64", width=width)
    return of, peers.ours(of)


def qkv():
    return draw(3, 2, 3, TOKENS, 4)


@pytest.mark.parametrize("causal", [False, True])
def test_an_exact_window_is_ours_one_key_wider(causal):
    _, attention = ours(width=WIDTH + 1, causal=causal)
    assert_parity(attention, peers.local_window(width=WIDTH, causal=causal), *qkv(), tolerance=FLOAT64)


@pytest.mark.parametrize("place", range(WIDTH))
def test_its_default_window_is_as_wide_as_the_place_in_the_block_says(place):
    of, attention = ours(width=WIDTH + place + 1)
    theirs = peers.local_window(width=WIDTH, exact=False)(*qkv())
    differs = rows_that_differ(attention(*qkv()), theirs, tolerance=FLOAT64)[
        :, :, 2 * WIDTH :
    ]  # from where the widest fits
    rows = differs.unflatten(2, (-1, WIDTH))
    assert not rows[..., place].any()
    assert rows[..., [p for p in range(WIDTH) if p != place]].all()
    assert_same(attention(*qkv()), by_the_paper(attention, of, *qkv()), tolerance=FLOAT64)
