"""Block-local attention with a fixed number of global blocks: a fixed pattern, and a linear cost."""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension; X = B * H, N blocks of queries, C rows of
# a block, L keys that a block's rows are shown

from collections.abc import Iterator
from typing import Annotated

import msgspec
import torch
from msgspec import Meta

from attnbench import Case, Mask, Support, Unsupported
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.counting import executed
from attnbench_variants.blocks.fused import Fused
from attnbench_variants.blocks.heads import per_query_head
from attnbench_variants.blocks.visible import visible_keys
from attnbench_variants.fixed_sparse.layout import Layout

# Elements of the keys laid out for one call on a CPU: copies that stay in the cache cost half of those that do not.
_CACHED_ELEMENTS = 2**20


class Sparse:
    """Block-local attention with global blocks (BigBird without random blocks: Zaheer et al. 2020, section 2, ITC).

    The first `globals` blocks of positions are global: their queries see every key, and every query sees their keys.
    The positions after them are cut into blocks too, the last one maybe short: a query sees its own block and
    `neighbours` blocks on either side. Causally it sees, of all these, only keys up to its own. Queries are the last T
    positions of the keys. One softmax over what is seen, each key once. Time and memory: O(T + S).
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """The pattern. BigBird's own sizes are block 64, globals 2, neighbours 1, and 3 random blocks."""

        block: Annotated[int, Meta(ge=1, description="positions of a block")] = 64
        globals: Annotated[int, Meta(ge=0, description="leading blocks that see all and are seen by all")] = 1
        neighbours: Annotated[int, Meta(ge=0, description="blocks seen on either side of a query's own")] = 1

    supports = Support(
        window="its pattern is its own: set block, globals and neighbours instead", grouped=True, growth=1
    )

    def __init__(self, case: Case, options: Options) -> None:
        if case.shape.seq_q > case.shape.seq_k:
            raise Unsupported("its queries are the last positions of the keys: there cannot be more of them than keys")
        self._layout = _layout(case, options)
        self._fused = Fused(case, masked=True)
        self.backend = self._fused.name

    def __call__(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        heads, layout = q_BHTD.shape[1], self._layout
        q_XTD, k_XSD, v_XSD = (per_query_head(x, heads).flatten(0, 1) for x in (q_BHTD, k_BGSD, v_BGSD))
        rows = [*self._global_rows(q_XTD, k_XSD, v_XSD), *self._local_rows(q_XTD, k_XSD, v_XSD)]
        return torch.cat(rows, dim=1)[:, layout.lead : layout.lead + layout.queries].view(q_BHTD.shape)

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: every key that a row is shown, seen or not."""
        shape, layout = case.shape, _layout(case, msgspec.convert(case.options, Sparse.Options))
        pairs = layout.global_queries * layout.global_keys + layout.blocks * layout.rows * layout.shown
        return executed(4 * shape.batch * shape.heads * pairs * shape.head_dim, case, scores="recomputed")

    def _global_rows(self, q_XTD: torch.Tensor, k_XSD: torch.Tensor, v_XSD: torch.Tensor) -> Iterator[torch.Tensor]:
        """Attend with the queries of the global blocks to every key; causally, that is to the global blocks' own."""
        queries, keys = self._layout.global_queries, self._layout.global_keys
        if queries:
            causal = Mask(causal=self._layout.causal)
            mask_TS = visible_keys(causal, queries=queries, keys=keys, device=q_XTD.device)
            yield self._fused(q_XTD[None, :, :queries], k_XSD[None, :, :keys], v_XSD[None, :, :keys], mask=mask_TS)[0]

    def _local_rows(self, q_XTD: torch.Tensor, k_XSD: torch.Tensor, v_XSD: torch.Tensor) -> Iterator[torch.Tensor]:
        """Attend with the other queries, a run of blocks at a time, with the filling rows of first and last block."""
        layout = self._layout
        if not layout.blocks:
            return
        q_XNCD = layout.query_blocks(q_XTD[:, layout.global_queries :])
        k_XMCD, v_XMCD = layout.key_blocks(k_XSD), layout.key_blocks(v_XSD)
        mask_1NCL = layout.mask(q_XTD.device)[None]
        for run in _runs(layout, q_XTD):
            k_XNLD, v_XNLD = layout.shown_keys(k_XSD, k_XMCD, run), layout.shown_keys(v_XSD, v_XMCD, run)
            yield self._fused(q_XNCD[:, run], k_XNLD, v_XNLD, mask=mask_1NCL[:, run]).flatten(1, 2)


def _layout(case: Case, options: Sparse.Options) -> Layout:
    hubs = options.globals * options.block
    return Layout(case.shape, causal=case.mask.causal, block=options.block, hubs=hubs, neighbours=options.neighbours)


def _runs(layout: Layout, q_XTD: torch.Tensor) -> Iterator[slice]:
    """Cut the blocks into runs whose keys stay in a CPU's cache; elsewhere all blocks are one run."""
    length = layout.blocks
    if q_XTD.device.type == "cpu":
        length = max(1, _CACHED_ELEMENTS // (layout.shown * q_XTD.shape[0] * q_XTD.shape[2]))
    for start in range(0, layout.blocks, length):
        yield slice(start, min(start + length, layout.blocks))
