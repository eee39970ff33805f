"""Attention to the keys around each query: blocks of queries on overlapping views of the keys, nothing copied."""
# X sequences (batch x heads), T queries, S keys, D head dimension; N blocks of C queries, L keys that each is shown;
# E keys that are shared by many queries

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from attnbench_variants.blocks.dtypes import wide_dtype
from attnbench_variants.blocks.fused_kernels import packed
from attnbench_variants.blocks.lse_kernels import Chunks, Kernel, kernel_for, masked
from attnbench_variants.blocks.merging import merge_into
from attnbench_variants.fixed_sparse.window_pattern import Tile, WindowPattern, tiles_of

# Elements of the keys shown in one call, whose gradients are as large: on a CPU they stay in cache and in the heap.
_CPU_ELEMENTS, _DEVICE_ELEMENTS = 2**20, 2**28


class Step(NamedTuple):
    """Some of the queries, which all see the first `keys` of the shared keys."""

    rows: slice
    keys: int


class Shared(NamedTuple):
    """Keys and values [X, E, D] that many queries see besides their window, and the number that each of them see."""

    k: Tensor
    v: Tensor
    steps: Sequence[Step]


class Windows:
    """Attention by a window pattern, of T queries that are the last positions of S keys."""

    def __init__(self, pattern: WindowPattern, *, queries: int, keys: int, like: Tensor) -> None:
        self.pattern = pattern
        self.kernel = kernel_for(like.device)
        hidden_CL = pattern.hidden(like.device)
        self._mask = None if hidden_CL is None else _mask(hidden_CL, like)
        self._tiles = [(tile, self._mask_of(tile)) for tile in tiles_of(pattern, queries=queries, keys=keys)]

    def __call__(self, q_XTD: Tensor, k_XSD: Tensor, v_XSD: Tensor, *, shared: Shared | None = None) -> Tensor:
        """Attend: out_XTD = softmax(q k^T / sqrt(D)) v over the keys in a query's window and the shared ones it sees.

        One softmax, whose two parts are merged by their log-sum-exps; a key that is in both counts twice. Gradients are
        exact. Memory beyond the output: O(X T).
        """
        q_XTD, k_XSD, v_XSD = packed(q_XTD, k_XSD, v_XSD)
        k_XED, v_XED, steps = shared or (k_XSD[:, :0], v_XSD[:, :0], ())
        out_XTD: Tensor = _Attend.apply(q_XTD, k_XSD, v_XSD, k_XED, v_XED, (self, steps))  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return out_XTD

    def runs(self, q_XTD: Tensor) -> Iterator["_Run"]:
        """Cut the tiles into runs of few blocks of few sequences."""
        elements = _CPU_ELEMENTS if q_XTD.device.type == "cpu" else _DEVICE_ELEMENTS
        for tile, mask in self._tiles:
            sequences = max(1, elements // (tile.shown * q_XTD.shape[2]))
            blocks = max(1, sequences // len(q_XTD))
            for few in product(_cut(len(q_XTD), sequences), _cut(tile.blocks, blocks)):
                yield _Run(tile, few, mask, self.kernel)

    def _mask_of(self, tile: Tile) -> Tensor | None:
        return None if self._mask is None else self._mask[:, :, tile.mask_rows, tile.mask_keys]


class _Run(NamedTuple):
    """Some blocks of some sequences: `few` indexes [X, N, ...]."""

    tile: Tile
    few: tuple[slice, slice]
    mask: Tensor | None
    kernel: Kernel

    def queries(self, x: Tensor) -> Tensor:
        """View [X, T, ...] as this run's blocks of queries, [X, N, C, ...]."""
        x_XNC: Tensor = x[:, self.tile.rows].unflatten(1, (self.tile.blocks, -1))
        return x_XNC[self.few]

    def shown(self, x_XSD: Tensor) -> Tensor:
        """View the keys that each of this run's blocks is shown: x_XNLD."""
        return x_XSD[:, self.tile.keys].unfold(1, self.tile.shown, self.tile.block)[self.few].mT

    def chunks(self, q_XTD: Tensor, k_XSD: Tensor, v_XSD: Tensor) -> Chunks:
        """Return the queries, and views of the keys and values that they are shown."""
        q_XNCD, scale = self.queries(q_XTD), q_XTD.shape[2] ** -0.5
        return Chunks(q_XNCD, self.shown(k_XSD), self.shown(v_XSD), self.mask, scale=scale)

    def fold(self, of_shown_XNLD: Tensor, into_XSD: Tensor) -> None:
        """Add, for each key, the gradients of all blocks that it is shown to; of the blocks' overlaps one at a time."""
        block, shown = self.tile.block, self.tile.shown
        for first in range(0, shown, block):
            stop = min(first + block, shown)
            keys_XMD = into_XSD[:, self.tile.keys][:, first:]
            keys_XMD.unfold(1, stop - first, block)[self.few].mT.add_(of_shown_XNLD[:, :, first:stop])


class _Attend(torch.autograd.Function):
    """Some blocks of some sequences at a time, so that a kernel's results are small.

    By hand, as autograd would keep the scores: `window` would take 1.4 times as long for both passes and hold 3
    (causal) to 5 times the memory (2048 tokens).
    """

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        *tensors, (windows, steps) = given
        q_XTD = tensors[0]
        wide = wide_dtype(q_XTD.dtype)
        out_XTD = torch.empty_like(q_XTD, memory_format=torch.contiguous_format, dtype=wide if steps else None)
        lse_XT = q_XTD.new_empty(q_XTD.shape[:2], dtype=wide)
        for run in windows.runs(q_XTD):
            out_XNCD, lse_XNC = run.kernel.forward(run.chunks(*tensors[:3]))
            run.queries(out_XTD).copy_(out_XNCD)
            run.queries(lse_XT).copy_(lse_XNC)
        for rows, chunks in _shared_runs(tensors, steps):
            out_X1MD, lse_X1M = windows.kernel.forward(chunks)
            merge_into(out_XTD[:, rows], lse_XT[:, rows], out=out_X1MD, lse=lse_X1M)
        out_XTD = out_XTD.to(q_XTD.dtype)
        ctx.save_for_backward(*tensors, out_XTD, lse_XT)
        ctx.form = windows, steps
        return out_XTD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_XTD: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, out_XTD, lse_XT = ctx.saved_tensors
        windows, steps = ctx.form
        result = grad_XTD.contiguous(), out_XTD, lse_XT
        sums = [torch.zeros_like(x, dtype=wide_dtype(x.dtype)) for x in tensors]
        dq_XTD, dk_XSD, dv_XSD, *shared_sums = sums
        for run in windows.runs(tensors[0]):
            of_run = (run.queries(x) for x in result)
            dq_XNCD, dk_XNLD, dv_XNLD = run.kernel.backward(run.chunks(*tensors[:3]), *of_run)
            run.queries(dq_XTD).copy_(dq_XNCD)
            run.fold(dk_XNLD, dk_XSD)
            run.fold(dv_XNLD, dv_XSD)
        for rows, chunks in _shared_runs(tensors, steps):
            gradients = windows.kernel.backward(chunks, *(x[:, None, rows] for x in result))
            sums_of_run = [dq_XTD[:, rows], *(x[:, : chunks.k.shape[2]] for x in shared_sums)]
            for into_XMD, gradient_X1MD in zip(sums_of_run, gradients, strict=True):
                into_XMD.add_(gradient_X1MD[:, 0])
        return *(total.to(x.dtype) for x, total in zip(tensors, sums, strict=True)), None


def _shared_runs(tensors: Sequence[Tensor], steps: Sequence[Step]) -> Iterator[tuple[slice, Chunks]]:
    """Cut the queries into few at a time, with the shared keys that they see: chunks of one, [X, 1, ...]."""
    q_XTD, _, _, k_XED, v_XED = tensors
    sequences, queries, dim = q_XTD.shape
    for step in steps:
        for rows in _cut(len(range(queries)[step.rows]), max(1, _CPU_ELEMENTS // (sequences * dim))):
            few = slice(step.rows.start + rows.start, step.rows.start + rows.stop)
            q_X1MD, k_X1ED, v_X1ED = q_XTD[:, None, few], k_XED[:, None, : step.keys], v_XED[:, None, : step.keys]
            yield few, Chunks(q_X1MD, k_X1ED, v_X1ED, scale=dim**-0.5)


def _mask(hidden_CL: Tensor, like: Tensor) -> Tensor:
    """Return the mask that is added to scores, [1, 1, C, L]: finite, as differences of infinities would be NaN."""
    mask_CL = like.new_zeros(hidden_CL.shape).masked_fill_(hidden_CL, masked(like.dtype))
    return mask_CL[None, None]


def _cut(length: int, few: int) -> list[slice]:
    return [slice(start, min(start + few, length)) for start in range(0, length, few)]
