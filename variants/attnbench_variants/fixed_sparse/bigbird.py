"""BigBird: global blocks, a window of blocks, and random blocks; a fixed pattern, and a linear cost.

Zaheer et al. 2020, "Big Bird: Transformers for Longer Sequences", section 2 and appendix D (BigBird-ITC):

    out_i = sum_j softmax_j(q_i . k_j / sqrt(D)) v_j   over the keys j in N(i)
    N(i) = {j: block(j) < globals or |block(j) - block(i)| <= neighbours or block(j) in random(block(i))}
           or all keys if block(i) < globals

The first `globals` blocks of positions are global. random(b) are `random` further blocks that are neither global nor
neighbours of b, drawn from the seed for each block and head. One softmax, each key once. Queries are the last T
positions of the keys. Time: O((T + S) D) times the blocks that are seen; memory: O(T + S); to draw the blocks, O(S).

Where the paper leaves a choice, or its code differs:

- The paper's global tokens of ITC are any set of existing ones. Here they are the first blocks; in the authors' code,
  the first one and the last.
- Causally, which the paper does not define, a query sees of all these only keys up to its own, and the random blocks
  are drawn from those before the neighbours, as in DeepSpeed's unidirectional form.
- A query that has no more than `random` blocks to draw from sees them all.
"""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension; N blocks of queries

from typing import Annotated, ClassVar

import msgspec
import torch
from msgspec import Meta

from attnbench import Case, Support, Tune
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.reach import share_seen
from attnbench_variants.fixed_sparse.block_layout import Layout
from attnbench_variants.fixed_sparse.block_lists import Lists, draw_distinct
from attnbench_variants.fixed_sparse.block_local import BlockLocal, count_block_local


class BigBird(BlockLocal):
    """Global, neighbouring and random blocks (BigBird-ITC: Zaheer et al. 2020, section 2 and appendix D)."""

    class Options(BaseOptions, frozen=True, kw_only=True):
        """The pattern; defaults are the paper's (appendix E.1, table 8: global 2, window 3, random 3 blocks of 64)."""

        block: Annotated[int, Meta(ge=1, description="positions of a block")] = 64
        globals: Annotated[int, Meta(ge=0, description="leading blocks that see all and are seen by all")] = 2
        neighbours: Annotated[int, Meta(ge=0, description="blocks seen on either side of a query's own")] = 1
        random: Annotated[int, Meta(ge=0, description="further blocks seen, drawn from the seed for each head")] = 3

    tunes: ClassVar = {"random": Tune((1, 3, 6, 12, 24)), "neighbours": Tune("1..16")}
    supports = Support(
        window="its pattern is its own: set block, globals, neighbours and random instead",
        grouped=True,
        growth=1,
        spans=("block",),
    )

    def __init__(self, case: Case, options: Options) -> None:
        layout = _layout(case, options)
        self.lists = _lists(case, layout, options)
        super().__init__(case, layout, self.lists)

    @staticmethod
    def reach(case: Case) -> float:
        """Return the share of the visible keys in global and random blocks and those around a query's own."""
        options = msgspec.convert(case.options, BigBird.Options)
        return share_seen(case, _layout(case, options).sees, further=options.random * options.block)

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: every key that a row is shown, seen or not."""
        options = msgspec.convert(case.options, BigBird.Options)
        layout = _layout(case, options)
        return count_block_local(case, layout, _lists(case, layout, options))


def _layout(case: Case, options: BigBird.Options) -> Layout:
    hubs = options.globals * options.block
    return Layout(case.shape, causal=case.mask.causal, block=options.block, hubs=hubs, neighbours=options.neighbours)


def _lists(case: Case, layout: Layout, options: BigBird.Options) -> Lists:
    """Draw the random blocks of every block, those before the case's queries too: they are the same for any T."""
    blocks = -(-layout.local_keys // layout.block)
    number_N = torch.arange(blocks)
    before_N = (number_N - layout.before).clamp(min=0)
    after_N = (blocks - 1 - number_N - layout.before).clamp(min=0) * (not layout.causal)
    drawn_HNA = draw_distinct(
        before_N + after_N, torch.full_like(number_N, options.random), heads=case.shape.heads, seed=case.seed
    )
    # What is drawn counts the blocks to draw from; those around a block's own lie between the ones before and after.
    skipped_N1 = (number_N + layout.before + 1 - before_N)[:, None]
    numbers_HNA = drawn_HNA + skipped_N1 * (drawn_HNA >= before_N[:, None])
    return Lists(numbers_HNA.to(case.device), layout.block, layout.hubs, case.shape.seq_k)
