"""Block-local attention with a fixed number of global blocks: a fixed pattern, and a linear cost.

BigBird without random blocks (Zaheer et al. 2020, "Big Bird: Transformers for Longer Sequences", section 2, ITC):

    out_i = sum_j softmax_j(q_i . k_j / sqrt(D)) v_j   over the keys j in N(i)
    N(i) = {j: block(j) < globals or |block(j) - block(i)| <= neighbours}, or all keys if block(i) < globals

The first `globals` blocks of positions are global. The positions after them are cut into blocks too, the last one maybe
short. Causally a query sees, of all these, only keys up to its own. One softmax, each key once. Queries are the last T
positions of the keys. Time: O((T + S) D) times the blocks that are seen; memory: O(T + S).
"""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from attnbench import Case, Support, Tune
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.reach import share_seen
from attnbench_variants.fixed_sparse.block_layout import Layout
from attnbench_variants.fixed_sparse.block_local import BlockLocal, count_block_local


class Sparse(BlockLocal):
    """Block-local attention with global blocks (BigBird without random blocks: Zaheer et al. 2020, section 2, ITC)."""

    class Options(BaseOptions, frozen=True, kw_only=True):
        """The pattern. BigBird's own sizes are block 64, globals 2, neighbours 1, and 3 random blocks."""

        block: Annotated[int, Meta(ge=1, description="positions of a block")] = 64
        globals: Annotated[int, Meta(ge=0, description="leading blocks that see all and are seen by all")] = 1
        neighbours: Annotated[int, Meta(ge=0, description="blocks seen on either side of a query's own")] = 1

    tunes: ClassVar = {"block": Tune("16..1024"), "neighbours": Tune("1..8")}
    supports = Support(
        window="its pattern is its own: set block, globals and neighbours instead",
        grouped=True,
        growth=1,
        spans=("block",),
    )

    def __init__(self, case: Case, options: Options) -> None:
        super().__init__(case, _layout(case, options))

    @staticmethod
    def reach(case: Case) -> float:
        """Return the share of the visible keys in global blocks and the blocks around a query's own."""
        return share_seen(case, _layout(case, msgspec.convert(case.options, Sparse.Options)).sees)

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: every key that a row is shown, seen or not."""
        return count_block_local(case, _layout(case, msgspec.convert(case.options, Sparse.Options)))


def _layout(case: Case, options: Sparse.Options) -> Layout:
    hubs = options.globals * options.block
    return Layout(case.shape, causal=case.mask.causal, block=options.block, hubs=hubs, neighbours=options.neighbours)
