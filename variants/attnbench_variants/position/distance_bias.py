"""Attention with a bias for each distance of a key from its query: a table as long as the sequence, never all pairs.

    out_i = sum_j softmax_j(scale q_i . k_j + bias[j - i]) v_j                   bias [H, L]

With the queries in reverse order a query's biases are a stretch of the table, the next query's the same stretch one
place on: the kernel reads the matrix of biases through a view.
"""
# B batch, H heads, G key/value heads, R query heads that share one, T queries, S keys, D head dimension, L = T + S - 1
# distances, M queries of a block, W keys that it is shown

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from attnbench import Case, Mask
from attnbench_variants.blocks.dtypes import wide_dtype
from attnbench_variants.blocks.lse_kernels import FUSED_CPU, Chunks, Kernel, gradients_and_scores, kernel_for
from attnbench_variants.blocks.masks import require_queries_last

# Queries at a time where a mask leaves keys out: a longer block is shown more keys that it does not see.
_BLOCK = 256
# Scores at a time where they are materialised: on a CPU so few that they stay in its cache and in the heap.
_CPU_SCORES, _DEVICE_SCORES = 2**20, 2**28


class BiasedAttention:
    """softmax(scale q k^T + bias[j - i]) v, with a table of biases by distance for each head.

    Queries are the last T positions of the keys. What the case's mask hides is given a bias of minus infinity. Memory
    beyond the output: O(L H), and a block of scores where the kernel is not fused or the bias needs a gradient.
    """

    def __init__(self, case: Case, *, scale: float) -> None:
        shape = case.shape
        require_queries_last(case)
        device = torch.device(case.device)
        self.distance_L = torch.arange(1 - shape.seq_k, shape.seq_q, device=device)
        self._hidden_L = _hidden(self.distance_L, case.mask)
        self._form = _Form(case.mask, shape.seq_q, shape.seq_k, scale)
        self.name = kernel_for(device).name

    def __call__(self, q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, bias_HL: Tensor) -> Tensor:
        """Attend: out_BHTD. `bias_HL` is ordered as `distance_L`; all gradients are exact, its own too."""
        table_HL = bias_HL.to(wide_dtype(q_BHTD.dtype)).masked_fill(self._hidden_L, float("-inf"))
        out_BHTD: Tensor = _Biased.apply(q_BHTD.flip(2), k_BGSD, v_BGSD, table_HL, self._form)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return out_BHTD.flip(2)


def shown_pairs(case: Case) -> int:
    """Count the pairs of a query and a key whose scores are made in a forward call, for one head."""
    shape = case.shape
    form = _Form(case.mask, shape.seq_q, shape.seq_k, 1.0)
    rows = form.rows(kernel_for(torch.device(case.device)), shape.batch * shape.heads)
    return sum((block.stop - block.start) * (keys.stop - keys.start) for block, keys in form.blocks(rows))


class _Form(NamedTuple):
    mask: Mask
    queries: int
    keys: int
    scale: float

    def rows(self, kernel: Kernel, heads: int) -> int:
        """Return the number of queries of a block: few enough for the scores, or for the keys that a mask hides."""
        if kernel is not FUSED_CPU:
            return self.rows_of_scores(heads, _DEVICE_SCORES)
        return _BLOCK if self.mask.causal or self.mask.window is not None else self.queries

    def rows_of_scores(self, heads: int, scores: int) -> int:
        """Return the number of queries of a block for which no more than so many scores are made."""
        return max(1, scores // (heads * self.keys))

    def blocks(self, rows: int) -> Iterator[tuple[slice, slice]]:
        """Cut the reversed queries into blocks, each with the keys of which its queries see any."""
        causal, window = self.mask.causal, self.mask.window
        for first in range(0, self.queries, rows):
            last = min(first + rows, self.queries)
            start = 0 if window is None else max(0, self.keys - last - window + 1)
            ahead = 1 if causal else (window or self.keys)
            yield slice(first, last), slice(start, min(self.keys, self.keys - 1 - first + ahead))

    def chunks(self, tensors: tuple[Tensor, ...], rows: slice, keys: slice) -> Chunks:
        """Cut a block out of q, k, v and the table of biases."""
        q_BHTD, k_BGSD, v_BGSD, table_HL = tensors
        shown = keys.stop - keys.start
        first = rows.start + keys.start
        bias_HMW = table_HL[:, first : first + rows.stop - rows.start + shown - 1].unfold(1, shown, 1)
        return Chunks(q_BHTD[:, :, rows], k_BGSD[:, :, keys], v_BGSD[:, :, keys], bias_HMW[None], scale=self.scale)


class _Biased(torch.autograd.Function):
    """Block by block; scores are recomputed for the gradient.

    By hand, as torch's fused kernel has no gradient of a mask, and autograd would keep the scores: `t5-bias` would hold
    8.6 times the memory and take 1.7 times as long for both passes, causally 2.8 times the memory in the same time
    (2048 tokens). A bias without a gradient, as ALiBi's, could be left to torch.
    """

    @staticmethod
    def forward(ctx: Any, q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, table_HL: Tensor, form: _Form) -> Tensor:
        tensors, kernel = (q_BHTD, k_BGSD, v_BGSD, table_HL), kernel_for(q_BHTD.device)
        out_BHTD = torch.empty_like(q_BHTD, memory_format=torch.contiguous_format)
        lse_BHT = table_HL.new_empty(q_BHTD.shape[:3])
        for rows, keys in form.blocks(form.rows(kernel, q_BHTD[..., 0, 0].numel())):
            out_BHTD[:, :, rows], lse_BHT[:, :, rows] = kernel.forward(form.chunks(tensors, rows, keys))
        ctx.save_for_backward(*tensors, out_BHTD, lse_BHT)
        ctx.form = form
        return out_BHTD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BHTD: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, out_BHTD, lse_BHT = ctx.saved_tensors
        saved = _Saved(tuple(tensors), (grad_BHTD, out_BHTD, lse_BHT))
        gradients = tuple(torch.zeros_like(x, dtype=lse_BHT.dtype) for x in tensors)
        add = _add_all_gradients if ctx.needs_input_grad[3] else _add_gradients
        add(saved, gradients, ctx.form)
        return (*(gradient.to(x.dtype) for gradient, x in zip(gradients, tensors, strict=True)), None)


class _Saved(NamedTuple):
    """Queries, keys, values and the table; the gradient of the output, the output and its log-sum-exp."""

    inputs: tuple[Tensor, ...]
    results: tuple[Tensor, ...]


def _add_gradients(saved: _Saved, gradients: tuple[Tensor, ...], form: _Form) -> None:
    """Add to the gradients of q, k and v by the kernel's backward."""
    kernel = kernel_for(saved.inputs[0].device)
    for rows, keys in form.blocks(form.rows(kernel, saved.inputs[0][..., 0, 0].numel())):
        of_block = kernel.backward(form.chunks(saved.inputs, rows, keys), *(x[:, :, rows] for x in saved.results))
        _add_block(gradients, of_block, rows, keys)


def _add_all_gradients(saved: _Saved, gradients: tuple[Tensor, ...], form: _Form) -> None:
    """Add to the table's gradient too, which no kernel sums: for some queries of a group at a time."""
    q_BHTD, k_BGSD = saved.inputs[:2]
    shared = q_BHTD.shape[1] // k_BGSD.shape[1]
    most = _CPU_SCORES if q_BHTD.device.type == "cpu" else _DEVICE_SCORES
    for group in range(k_BGSD.shape[1]):
        inputs, sums = (_of_group(x, group, shared) for x in (saved.inputs, gradients))
        results = [x[:, group * shared : (group + 1) * shared] for x in saved.results]
        for rows, keys in form.blocks(form.rows_of_scores(len(q_BHTD) * shared, most)):
            of_block = gradients_and_scores(form.chunks(inputs, rows, keys), *(x[:, :, rows] for x in results))
            _add_block(sums, of_block, rows, keys)
            first = rows.start + keys.start
            by_distance_RL = _sum_diagonals(of_block[3]).sum(dim=0)
            sums[3][:, first : first + by_distance_RL.shape[1]] += by_distance_RL


def _of_group(tensors: tuple[Tensor, ...], group: int, shared: int) -> tuple[Tensor, ...]:
    q_BHTD, k_BGSD, v_BGSD, table_HL = tensors
    heads, own = slice(group * shared, (group + 1) * shared), slice(group, group + 1)
    return q_BHTD[:, heads], k_BGSD[:, own], v_BGSD[:, own], table_HL[heads]


def _add_block(gradients: Sequence[Tensor], of_block: Sequence[Tensor], rows: slice, keys: slice) -> None:
    for gradient, added, at in zip(gradients[:3], of_block[:3], (rows, keys, keys), strict=True):
        gradient[:, :, at] += added


def _sum_diagonals(x_BRMW: Tensor) -> Tensor:
    """Sum the entries [m, w] of equal m + w: [B, R, M + W - 1]. Rows cut one too short are each shifted by one more."""
    rows, columns = x_BRMW.shape[2:]
    length = rows + columns - 1
    padded = pad(x_BRMW, (0, rows)).flatten(2)
    shifted_BRML = padded[..., : rows * length].reshape(*x_BRMW.shape[:3], length)
    return shifted_BRML.sum(dim=2)


def _hidden(distance_L: Tensor, mask: Mask) -> Tensor:
    """Mark the distances that the mask hides: [L]."""
    hidden_L = distance_L > 0 if mask.causal else torch.zeros_like(distance_L, dtype=torch.bool)
    return hidden_L if mask.window is None else hidden_L | (distance_L.abs() >= mask.window)
