"""Exact attention of each query to its own block of keys and to others that were chosen for it; and its gradient."""
# X sequences (batch x heads), F of them at a time, T queries, U = T + 1 rows (one that stands for none), S keys, N
# blocks of keys, K blocks chosen for a query, P = T x K pairs of a query and a block, M queries at a time, D head
# dimension

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from attnbench_variants.blocks.dtypes import wide_dtype
from attnbench_variants.blocks.lse_kernels import Chunks, kernel_for, masked

# 64 x 2 heads of 128 queries and 2 chosen blocks take 0.11 of the time of one sequence after the other, 4096 queries 1.
_CPU_PAIRS = 2**14


class Blocks(NamedTuple):
    """The blocks of keys, the last one maybe short; the queries are the last positions. Scores are scale q . k."""

    size: int
    queries: int
    keys: int
    causal: bool
    scale: float

    @property
    def total(self) -> int:
        """Number of blocks (N)."""
        return -(-self.keys // self.size)

    def of(self, number: int) -> slice:
        """Return a block's keys."""
        return slice(number * self.size, min(self.keys, (number + 1) * self.size))

    def own(self) -> Iterator[tuple[slice, slice]]:
        """Return the queries and the keys of each block that has queries."""
        before = self.keys - self.queries
        for number in range(before // self.size, self.total):
            keys = self.of(number)
            yield slice(max(0, keys.start - before), keys.stop - before), keys


def attend_to_blocks(q_XTD: Tensor, k_XSD: Tensor, v_XSD: Tensor, *, choice_XTK: Tensor, blocks: Blocks) -> Tensor:
    """Attend to a query's own block, causally up to itself, and to all keys of the chosen ones: out_XTD.

    `choice_XTK` holds numbers of blocks, none twice for a query and not its own; N stands for none. One softmax over
    all, merged by log-sum-exps. Gradients are exact, and there is none of the choice. Memory: O(X (T K + S D)).
    """
    sorted_XP, order_XP = choice_XTK.flatten(1).sort(dim=1, stable=True)
    number_XN = torch.arange(blocks.total + 1, device=order_XP.device).expand(len(order_XP), -1)
    start_XN = torch.searchsorted(sorted_XP, number_XN.contiguous())
    out_XTD: Tensor = _Blockwise.apply(q_XTD, k_XSD, v_XSD, _Routes(order_XP, start_XN), blocks)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return out_XTD


class _Routes(NamedTuple):
    """The pairs in the order of their blocks [X, P], and the start of each block's pairs in it [X, N + 1]."""

    order: Tensor
    start: Tensor

    def of_blocks(self, blocks: Blocks) -> Iterator[tuple[slice, Tensor, slice]]:
        """Return, for some sequences and a block, the rows of the queries that chose it, [F, M], and its keys.

        Sequences with fewer rows than others are filled up with rows that stand for none.
        """
        few = _sequences_at_a_time(self)
        most_XN = self.start.diff(dim=1)
        for first in range(0, len(self.order), few):
            sequences = slice(first, first + few)
            for number, most in enumerate(most_XN[sequences].amax(dim=0).tolist()):
                if most:
                    yield sequences, self._rows(sequences, number, most, blocks), blocks.of(number)

    def _rows(self, sequences: slice, number: int, most: int, blocks: Blocks) -> Tensor:
        order_FP, start_FN = self.order[sequences], self.start[sequences]
        pairs = order_FP.shape[1]
        pair_FM = start_FN[:, number, None] + torch.arange(most, device=order_FP.device)
        query_FM = order_FP.gather(1, pair_FM.clamp(max=pairs - 1)).div(pairs // blocks.queries, rounding_mode="floor")
        query_FM = query_FM.where(pair_FM < start_FN[:, number + 1, None], blocks.queries)
        numbers = torch.arange(sequences.start, sequences.start + len(query_FM), device=order_FP.device)
        return query_FM + numbers[:, None] * (blocks.queries + 1)


def _sequences_at_a_time(routes: _Routes) -> int:
    """Return as many as have _CPU_PAIRS on a CPU: one alone fills up no rows, short ones together take fewer calls."""
    sequences, pairs = routes.order.shape
    return max(1, _CPU_PAIRS // max(1, pairs)) if routes.order.device.type == "cpu" else sequences


class _Blockwise(torch.autograd.Function):
    """Own blocks first, then the chosen ones are merged into them. Scores are recomputed for the gradient.

    By hand, as autograd would keep the scores: `moba` would take 1.8 times as long for both passes and hold 5.5 times
    the memory (2048 tokens).
    """

    @staticmethod
    def forward(ctx: Any, q_XTD: Tensor, k_XSD: Tensor, v_XSD: Tensor, routes: _Routes, blocks: Blocks) -> Tensor:
        kernel = kernel_for(q_XTD.device)
        q_XUD = pad(q_XTD, (0, 0, 0, 1))
        out_XUD = torch.zeros_like(q_XUD, dtype=wide_dtype(q_XUD.dtype))
        lse_XU = out_XUD.new_zeros(out_XUD.shape[:2])
        for rows, keys in blocks.own():
            out, lse = kernel.forward(_own_chunk(q_XUD, k_XSD, v_XSD, (rows, keys), blocks))
            out_XUD[:, rows], lse_XU[:, rows] = out[0], lse[0]
        for sequences, rows_FM, keys in routes.of_blocks(blocks):
            q = _rows(q_XUD, rows_FM)
            chunk = Chunks(q, k_XSD[None, sequences, keys], v_XSD[None, sequences, keys], scale=blocks.scale)
            out, lse = kernel.forward(chunk)
            _merge(out_XUD.flatten(0, 1), lse_XU.flatten(), rows_FM.flatten(), out=out, lse=lse)
        out_XTD = out_XUD[:, :-1].to(q_XTD.dtype)
        ctx.save_for_backward(q_XTD, k_XSD, v_XSD, out_XTD, lse_XU, *routes)
        ctx.blocks = blocks
        return out_XTD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_XTD: Tensor) -> tuple[Tensor | None, ...]:
        q_XTD, k_XSD, v_XSD, out_XTD, lse_XU, *routes = ctx.saved_tensors
        blocks, kernel = ctx.blocks, kernel_for(q_XTD.device)
        q_XUD, out_XUD, grad_XUD = (pad(x, (0, 0, 0, 1)) for x in (q_XTD, out_XTD, grad_XTD))
        dq_XUD, dk_XSD, dv_XSD = (torch.zeros_like(x, dtype=lse_XU.dtype) for x in (q_XUD, k_XSD, v_XSD))
        for rows, keys in blocks.own():
            results = (x[None, :, rows] for x in (grad_XUD, out_XUD, lse_XU))
            dq, dk, dv = kernel.backward(_own_chunk(q_XUD, k_XSD, v_XSD, (rows, keys), blocks), *results)
            dq_XUD[:, rows], dk_XSD[:, keys], dv_XSD[:, keys] = dq[0], dk[0], dv[0]
        for sequences, rows_FM, keys in _Routes(*routes).of_blocks(blocks):
            q, grad, out, lse = (_rows(x, rows_FM) for x in (q_XUD, grad_XUD, out_XUD, lse_XU))
            chunk = Chunks(q, k_XSD[None, sequences, keys], v_XSD[None, sequences, keys], scale=blocks.scale)
            dq, dk, dv = kernel.backward(chunk, grad, out, lse)
            dq_XUD.flatten(0, 1).index_add_(0, rows_FM.flatten(), dq[0].flatten(0, 1).to(dq_XUD.dtype))
            dk_XSD[sequences, keys] += dk[0]
            dv_XSD[sequences, keys] += dv[0]
        return dq_XUD[:, :-1].to(q_XTD.dtype), dk_XSD.to(k_XSD.dtype), dv_XSD.to(v_XSD.dtype), None, None


def _rows(x_XU: Tensor, rows_FM: Tensor) -> Tensor:
    """Copy rows of all sequences, numbered one after the other: [1, F, M, ...]."""
    copies = x_XU.flatten(0, 1).index_select(0, rows_FM.flatten())  # ten times as fast as indexing
    return copies.view(1, *rows_FM.shape, *x_XU.shape[2:])


def _own_chunk(q_XUD: Tensor, k_XSD: Tensor, v_XSD: Tensor, own: tuple[slice, slice], blocks: Blocks) -> Chunks:
    rows, keys = own
    q, k, v = q_XUD[None, :, rows], k_XSD[None, :, keys], v_XSD[None, :, keys]
    first = rows.start + blocks.keys - blocks.queries - keys.start
    if not blocks.causal or not first:
        return Chunks(q, k, v, causal=blocks.causal, scale=blocks.scale)
    hidden_MW = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).triu_(1 + first)
    mask_MW = q.new_zeros(hidden_MW.shape).masked_fill_(hidden_MW, masked(q.dtype))
    return Chunks(q, k, v, mask_MW[None, None], scale=blocks.scale)


def _merge(out_ZD: Tensor, lse_Z: Tensor, rows: Tensor, *, out: Tensor, lse: Tensor) -> None:
    """Merge a part's output and log-sum-exp into those of its rows, in place."""
    before, lse = lse_Z.index_select(0, rows), lse.reshape(-1)
    total = torch.logaddexp(before, lse)
    merged = out_ZD.index_select(0, rows).mul_((before - total).exp_()[:, None])
    merged.addcmul_(out.reshape(merged.shape).to(merged.dtype), (lse - total).exp_()[:, None])
    out_ZD.index_copy_(0, rows, merged)
    lse_Z.index_copy_(0, rows, total)
