"""Attention of blocks of queries to global keys, to the blocks around their own, and to blocks listed for each."""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension; X = B * H, N blocks of queries, C rows of
# a block, M blocks of keys, L keys that a block's rows are shown

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from attnbench import Case, Mask
from attnbench_variants.blocks.dtypes import wide_dtype
from attnbench_variants.blocks.flop_counts import executed_pairs
from attnbench_variants.blocks.fused_kernels import Fused
from attnbench_variants.blocks.grouped_heads import per_query_head
from attnbench_variants.blocks.lse_kernels import FUSED_CPU, Chunks
from attnbench_variants.blocks.masks import require_queries_last, visible_keys
from attnbench_variants.fixed_sparse.block_layout import Layout
from attnbench_variants.fixed_sparse.block_lists import Lists

# Elements of the keys laid out at a time: on a CPU copies that stay in the cache cost half of those that do not, and
# elsewhere they fit into memory.
_CACHED_ELEMENTS, _DEVICE_ELEMENTS = 2**20, 2**28


class Run(NamedTuple):
    """Some blocks of queries, and their lists."""

    blocks: slice
    lists: Lists | None


class BlockLocal:
    """Attention by a layout, and by lists of further blocks where a mechanism has some; each key is seen once."""

    def __init__(self, case: Case, layout: Layout, lists: Lists | None = None) -> None:
        require_queries_last(case)
        self.layout, self.runs = layout, list(_runs(case, layout, lists))
        self.recomputes = case.device == "cpu"  # elsewhere all blocks are one run, whose copies autograd keeps
        self._fused = Fused(case, masked=True)
        self.name = self._fused.name

    def __call__(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        heads, layout = q_BHTD.shape[1], self.layout
        q_XTD, k_XSD, v_XSD = (per_query_head(x, heads).flatten(0, 1) for x in (q_BHTD, k_BGSD, v_BGSD))
        rows = [*self._global_rows(q_XTD, k_XSD, v_XSD), *self._local_rows(q_XTD, k_XSD, v_XSD)]
        return torch.cat(rows, dim=1)[:, layout.lead : layout.lead + layout.queries].view(q_BHTD.shape)

    def _global_rows(self, q_XTD: torch.Tensor, k_XSD: torch.Tensor, v_XSD: torch.Tensor) -> Iterator[torch.Tensor]:
        """Attend with the queries of the global blocks to every key; causally, to the keys of the global blocks."""
        queries, keys = self.layout.global_queries, self.layout.global_keys
        if queries:
            causal = Mask(causal=self.layout.causal)
            mask_TS = visible_keys(causal, queries=queries, keys=keys, device=q_XTD.device)
            yield self._fused(q_XTD[None, :, :queries], k_XSD[None, :, :keys], v_XSD[None, :, :keys], mask=mask_TS)[0]

    def _local_rows(self, q_XTD: torch.Tensor, k_XSD: torch.Tensor, v_XSD: torch.Tensor) -> Iterator[torch.Tensor]:
        """Attend with the other queries, and the rows that fill up the first and the last block."""
        if not self.layout.blocks:
            return
        q_XNCD = self.layout.query_blocks(q_XTD[:, self.layout.global_queries :])
        tracked = torch.is_grad_enabled() and any(x.requires_grad for x in (q_XTD, k_XSD, v_XSD))
        if tracked and self.recomputes:
            out_XNCD: torch.Tensor = _Recomputed.apply(self, q_XNCD, k_XSD, v_XSD)  # type: ignore[no-untyped-call]  # torch leaves it untyped
            yield out_XNCD.flatten(1, 2)
            return
        shown = Shown(self.layout, k_XSD, v_XSD)
        for run in self.runs:
            k_XNLD, v_XNLD, mask = shown.to(run)
            yield self._fused(q_XNCD[:, run.blocks], k_XNLD, v_XNLD, mask=mask).flatten(1, 2)


class Shown:
    """The keys and values that runs of blocks are shown: the global ones, the blocks around, the blocks listed."""

    def __init__(self, layout: Layout, k_XSD: torch.Tensor, v_XSD: torch.Tensor) -> None:
        self._layout, self._whole = layout, (k_XSD, v_XSD)
        self._cut = layout.key_blocks(k_XSD), layout.key_blocks(v_XSD)
        self._mask = layout.mask(k_XSD.device)

    def to(self, run: Run) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Lay out a run: k_XNLD, v_XNLD, and the mask of what is seen, [1 or X, N, C or 1, L]."""
        k_XNLD, v_XNLD = (self._laid_out(*x, run) for x in zip(self._whole, self._cut, strict=True))
        return k_XNLD, v_XNLD, self._seen(run, sequences=len(k_XNLD))

    def _laid_out(self, x_XSD: torch.Tensor, x_XMCD: torch.Tensor, run: Run) -> torch.Tensor:
        pieces = self._layout.shown_keys(x_XSD, x_XMCD, run.blocks)
        return _joined([*pieces, *([run.lists.copies(x_XSD)] if run.lists else [])])

    def _seen(self, run: Run, *, sequences: int) -> torch.Tensor:
        mask_1NCL = self._mask[None, run.blocks]
        if not run.lists:
            return mask_1NCL
        # Causally what is listed comes before a block and is whole, so that lists as long are alike for all heads.
        listed_GN1L = run.lists.seen()[: 1 if self._layout.causal else None]
        if len(listed_GN1L) > 1:
            listed_GN1L = listed_GN1L.repeat(sequences // len(listed_GN1L), 1, 1, 1)
        joined = listed_GN1L.new_empty(
            len(listed_GN1L), *mask_1NCL.shape[1:3], mask_1NCL.shape[3] + listed_GN1L.shape[3]
        )
        joined[..., : mask_1NCL.shape[3]], joined[..., mask_1NCL.shape[3] :] = mask_1NCL, listed_GN1L
        return joined


class _Recomputed(torch.autograd.Function):
    """Run after run on a CPU: what is laid out for one is not kept, but laid out again for its gradient.

    By hand, as autograd would keep all copies: `sparse`, `bigbird` and `block-sparse` would take 1.2 to 1.3 times as
    long for both passes and hold 1.1 to 1.7 times the memory (2048 tokens).
    """

    @staticmethod
    def forward(
        ctx: Any, pattern: BlockLocal, q_XNCD: torch.Tensor, k_XSD: torch.Tensor, v_XSD: torch.Tensor
    ) -> torch.Tensor:
        out_XNCD = torch.empty_like(q_XNCD)
        lse_XNC = q_XNCD.new_empty(q_XNCD.shape[:3], dtype=wide_dtype(q_XNCD.dtype))
        shown = Shown(pattern.layout, k_XSD, v_XSD)
        for run in pattern.runs:
            chunks = _chunks(q_XNCD[:, run.blocks], *shown.to(run))
            out_XNCD[:, run.blocks], lse_XNC[:, run.blocks] = FUSED_CPU.forward(chunks)
        ctx.pattern = pattern
        ctx.save_for_backward(q_XNCD, k_XSD, v_XSD, out_XNCD, lse_XNC)
        return out_XNCD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_XNCD: torch.Tensor) -> tuple[None, torch.Tensor, torch.Tensor, torch.Tensor]:
        q_XNCD, k_XSD, v_XSD, out_XNCD, lse_XNC = ctx.saved_tensors
        layout, dq_XNCD = ctx.pattern.layout, torch.empty_like(q_XNCD)
        shown, dk, dv = Shown(layout, k_XSD, v_XSD), _Sums(layout, k_XSD), _Sums(layout, v_XSD)
        for run in ctx.pattern.runs:
            chunks = _chunks(q_XNCD[:, run.blocks], *shown.to(run))
            of_run = (x[:, run.blocks] for x in (grad_XNCD, out_XNCD, lse_XNC))
            dq_XNCD[:, run.blocks], dk_XNLD, dv_XNLD = FUSED_CPU.backward(chunks, *of_run)
            dk.add(dk_XNLD, run)
            dv.add(dv_XNLD, run)
        return None, dq_XNCD.mul_(q_XNCD.shape[3] ** -0.5), dk.total(k_XSD), dv.total(v_XSD)


class _Sums:
    """The gradient of keys or values, added up run by run at the positions that were laid out."""

    def __init__(self, layout: Layout, x_XSD: torch.Tensor) -> None:
        self._layout = layout
        sequences, _, dim = x_XSD.shape
        wide = wide_dtype(x_XSD.dtype)
        blocks = layout.before - (-layout.local_keys // layout.block) + layout.after
        self._hubs_XSD = x_XSD.new_zeros(sequences, layout.hubs, dim, dtype=wide)
        self._blocks_XMCD = x_XSD.new_zeros(sequences, blocks, layout.block, dim, dtype=wide)

    def add(self, grad_XNLD: torch.Tensor, run: Run) -> None:
        """Add the gradient of what a run is shown."""
        layout, blocks_XMCD = self._layout, self._blocks_XMCD
        hubs, *around, listed = grad_XNLD.split(layout.widths(run.lists.shown if run.lists else 0), dim=2)
        self._hubs_XSD += hubs.sum(dim=1)
        for i, grad_XNCD in enumerate(around, layout.first_block):
            blocks_XMCD[:, run.blocks.start + i : run.blocks.stop + i] += grad_XNCD
        if run.lists:
            numbers = layout.before + run.lists.numbers.clamp(min=0)
            rows_XNA = run.lists.of_sequences(numbers, len(blocks_XMCD), step=blocks_XMCD.shape[1])
            size = (-1, blocks_XMCD[0, 0].numel())
            blocks_XMCD.view(size).index_add_(0, rows_XNA.view(-1), listed.reshape(size).to(blocks_XMCD.dtype))

    def total(self, like_XSD: torch.Tensor) -> torch.Tensor:
        """Return the sums by position: d_XSD."""
        local_XSD = self._blocks_XMCD[:, self._layout.before :].flatten(1, 2)[:, : self._layout.local_keys]
        return torch.cat([self._hubs_XSD, local_XSD], dim=1).to(like_XSD.dtype)


def count_block_local(case: Case, layout: Layout, lists: Lists | None = None) -> int:
    """Count the matrix products that are executed: every key that a row is shown, seen or not."""
    local = sum(
        (run.blocks.stop - run.blocks.start) * (layout.shown + (run.lists.shown if run.lists else 0))
        for run in _runs(case, layout, lists)
    )
    return executed_pairs(layout.global_queries * layout.global_keys + layout.rows * local, case)


def _joined(pieces: Sequence[torch.Tensor]) -> torch.Tensor:
    """Join pieces along the third dimension; torch's `cat` takes longer for such strided ones."""
    widths = [piece.shape[2] for piece in pieces]
    sequences, blocks, _, dim = pieces[0].shape
    whole = pieces[0].new_empty(sequences, blocks, sum(widths), dim)
    for piece, stop in zip(pieces, accumulate(widths), strict=True):
        whole[:, :, stop - piece.shape[2] : stop] = piece
    return whole


def _chunks(q_XNCD: torch.Tensor, k_XNLD: torch.Tensor, v_XNLD: torch.Tensor, seen: torch.Tensor) -> Chunks:
    mask = torch.zeros(seen.shape, dtype=q_XNCD.dtype).masked_fill_(~seen, float("-inf"))
    return Chunks(q_XNCD * q_XNCD.shape[3] ** -0.5, k_XNLD, v_XNLD, mask)


def _runs(case: Case, layout: Layout, lists: Lists | None) -> Iterator[Run]:
    """Cut the blocks into runs whose keys stay in a CPU's cache, or fit into another device's memory."""
    shape = case.shape
    elements = _CACHED_ELEMENTS if case.device == "cpu" else _DEVICE_ELEMENTS
    shown = layout.shown + (lists.shown if lists else 0)
    length = max(1, elements // max(1, shown * shape.batch * shape.heads * shape.head_dim))
    for start in range(0, layout.blocks, length):
        blocks = slice(start, min(start + length, layout.blocks))
        own = slice(layout.first_block + blocks.start, layout.first_block + blocks.stop)
        of_run = lists.run(own) if lists else None
        yield Run(blocks, of_run if of_run and of_run.shown else None)
