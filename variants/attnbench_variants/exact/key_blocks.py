"""Exact attention cut into blocks of keys, none of which needs another mask than a causal square's."""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension

from collections.abc import Iterator
from itertools import pairwise

from attnbench_variants.blocks.lse_kernels import Chunks
from attnbench_variants.blocks.merging import Part


def key_blocks(whole: Chunks, *, blocks: int) -> Iterator[Part]:
    """Cut keys into `blocks` of nearly equal length: what queries see of each is a part of one softmax.

    `whole` has q_BHTD, k_BGSD and v_BGSD; queries are the last T positions of the keys. Causally, the queries after a
    block see all of it, those in it the keys up to their own (a square, so that a kernel may align it at either end),
    and those before it nothing: that is left out.
    """
    queries, keys = whole.q.shape[2], whole.k.shape[2]
    first = keys - queries if whole.causal else keys  # keys before it are seen by all
    for start, stop in pairwise(sorted({first, *(keys * block // blocks for block in range(blocks + 1))})):
        after = 0
        if start >= first:
            after = stop - first
            yield _cut(whole, slice(start - first, after), slice(start, stop), causal=True)
        if after < queries:
            yield _cut(whole, slice(after, queries), slice(start, stop), causal=False)


def _cut(whole: Chunks, rows: slice, keys: slice, *, causal: bool) -> Part:
    q, k, v = whole.q[:, :, rows], whole.k[:, :, keys], whole.v[:, :, keys]
    return Part(whole._replace(q=q, k=k, v=v, causal=causal), rows)
