"""Block-sparse attention: by a layout of blocks, a block of scores is computed whole or not at all.

Dao et al. 2022, "FlashAttention", section 3.3 and algorithm 5; Gray et al. 2017, "Block-Sparse GPU Kernels":

    out_i = sum_j softmax_j(q_i . k_j / sqrt(D)) v_j   over the keys j in N(i)
    N(i) = {j: block(j) in layout(block(i))}, always its own block too

- `butterfly`: layout(b) = {b, b XOR 1, b XOR 2, b XOR 4, ...} as far as there are such blocks, in all heads alike (flat
  block butterfly, with the largest stride: Chen et al. 2022, "Pixelated Butterfly"). Pixelfly's further low-rank term
  is not part of it: that would be global blocks.
- `random`: every row of blocks keeps the share `density` of those that exact attention would see, rounded, its own and
  others drawn from the seed for each head.

The paper's experiments use the fixed butterfly; a random layout costs the same as any other of its density. Queries are
the last T positions of the keys, and causally a query sees keys up to its own. Time: O(N log N D) for the butterfly,
O(N^2 D) times the density otherwise. Memory: O(T + S).
"""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension; N blocks of queries, A blocks listed

from typing import Annotated, ClassVar, Literal

import msgspec
import torch
from msgspec import Meta

from attnbench import Case, Support, Tune, Unsupported
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.reach import share_seen
from attnbench_variants.fixed_sparse.block_layout import Layout
from attnbench_variants.fixed_sparse.block_lists import Lists, draw_distinct
from attnbench_variants.fixed_sparse.block_local import BlockLocal, count_block_local


class BlockSparse(BlockLocal):
    """Block-sparse attention (Dao et al. 2022, "FlashAttention", section 3.3 and algorithm 5; Gray et al. 2017)."""

    class Options(BaseOptions, frozen=True, kw_only=True):
        """The layout."""

        block: Annotated[int, Meta(ge=1, description="positions of a block")] = 64
        pattern: Annotated[
            Literal["butterfly", "random"],
            Meta(description="blocks at distances of powers of two (butterfly), or drawn from the seed (random)"),
        ] = "butterfly"
        density: Annotated[
            Annotated[float, Meta(gt=0, le=1)] | None,
            Meta(description="share of the blocks that a random pattern keeps; butterfly's follows from the length"),
        ] = None

    # N log N is about N^1.15 where a row has 7 to 11 blocks, that is from 4096 to 65536 positions.
    tunes: ClassVar = {"pattern": Tune(("random",)), "density": Tune((0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0))}
    supports = Support(
        window="its pattern is its own: set block, pattern and density instead",
        grouped=True,
        growth=1.15,
        spans=("block",),
    )

    def __init__(self, case: Case, options: Options) -> None:
        layout, self.lists = _pattern(case, options)
        super().__init__(case, layout, self.lists)

    @staticmethod
    def reach(case: Case) -> float:
        """Return the share of the visible keys in a query's own block and its partners."""
        options = msgspec.convert(case.options, BlockSparse.Options)
        if options.density is not None:
            own = share_seen(case, lambda i, j: i // options.block == j // options.block)
            return max(options.density, own)
        return share_seen(case, lambda i, j: _are_partners(i // options.block, j // options.block))

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: every key that a row is shown, seen or not."""
        return count_block_local(case, *_pattern(case, msgspec.convert(case.options, BlockSparse.Options)))


def _pattern(case: Case, options: BlockSparse.Options) -> tuple[Layout, Lists]:
    if (options.pattern == "random") != (options.density is not None):
        raise Unsupported("density is given for pattern=random, and only there: a butterfly's follows from the length")
    layout = Layout(case.shape, causal=case.mask.causal, block=options.block, hubs=0, neighbours=0)
    if options.density is None:
        numbers = _butterfly(layout)
    else:
        numbers = _random(layout, options.density, heads=case.shape.heads, seed=case.seed)
    return layout, Lists(numbers.to(case.device), layout.block, 0, case.shape.seq_k)


def _are_partners(i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    """Return which blocks are a butterfly's partners, or the same: their numbers differ in one bit at most."""
    differing = i ^ j
    return (differing & (differing - 1)) == 0


def _butterfly(layout: Layout) -> torch.Tensor:
    """List the partners of every block, of all heads: [1, N, A]."""
    blocks = -(-layout.local_keys // layout.block)
    number_N1 = torch.arange(blocks)[:, None]
    partner_NA = number_N1 ^ 2 ** torch.arange((blocks - 1).bit_length())
    return partner_NA.masked_fill(partner_NA >= (number_N1 if layout.causal else blocks), -1)[None]


def _random(layout: Layout, density: float, *, heads: int, seed: int) -> torch.Tensor:
    """Draw the other blocks of every block and head: [H, N, A]."""
    blocks = -(-layout.local_keys // layout.block)
    number_N = torch.arange(blocks)
    others_N = number_N if layout.causal else torch.full_like(number_N, blocks - 1)
    wanted_N = ((others_N + 1) * density).round().long().sub(1).clamp(min=0)
    drawn_HNA = draw_distinct(others_N, wanted_N, heads=heads, seed=seed)
    return drawn_HNA + (drawn_HNA >= number_N[:, None]).long()  # what is drawn counts the others
