"""Attention with learned vectors for relative positions: one for each near key's distance, shared by all far keys.

    out_i = sum_j softmax_j(scale q_i . (k_j + a_K[j - i])) (v_j + a_V[j - i])         (Shaw et al. 2018, eqs. 3 and 4)

Keys `clip` or more before a query all have the first vectors, those as far after it the last: their sum changes by one
factor, so that a fused kernel attends to them. Scores are made for near keys only, a block of queries at a time.
"""
# B batch, H heads, T queries, S keys, D head dimension, R = 2 clip + 1 relative positions, C queries of a block, M keys
# near it, F = 2 sides (keys far before, keys far after)

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from attnbench import Mask
from attnbench_variants.blocks.dtypes import wide_dtype
from attnbench_variants.blocks.lse_kernels import Chunks, kernel_for

# Queries of a block: the fastest of 64, 128 and 256 on two CPU cores.
_BLOCK = 128


class Span(NamedTuple):
    """A block of queries; the keys near them; and those on either side that are `clip` or more away from all of them.

    With a window, which hides those, none is far.
    """

    rows: slice
    near: slice
    far: tuple[slice, slice]

    def sides(self) -> Iterator[tuple[int, slice]]:
        """List the sides that have far keys: 0 before, 1 after; -side is the index of their relative position."""
        return ((side, keys) for side, keys in enumerate(self.far) if keys.start < keys.stop)


class Relations(NamedTuple):
    """Sizes, and the distance from which on relative positions are one. Queries are the last positions of the keys."""

    queries: int
    keys: int
    clip: int
    mask: Mask
    scale: float

    def spans(self) -> Iterator[Span]:
        """Cut the queries into blocks."""
        for start in range(0, self.queries, _BLOCK):
            stop = min(start + _BLOCK, self.queries)
            first, last = (self.keys - self.queries + row for row in (start, stop - 1))
            reach = self.clip if self.mask.window is None else self.mask.window
            end = last + 1 if self.mask.causal else self.keys
            near = slice(max(0, first - reach + 1), min(end, last + reach))
            before, after = (near.start, end) if self.mask.window is None else (0, near.stop)
            yield Span(slice(start, stop), near, (slice(0, before), slice(near.stop, after)))

    def offsets(self, span: Span, device: torch.device) -> Tensor:
        """Return j - i for a block's queries and the keys near it: int64 [C, M]."""
        own_C1 = torch.arange(span.rows.start, span.rows.stop, device=device)[:, None] + self.keys - self.queries
        return torch.arange(span.near.start, span.near.stop, device=device) - own_C1

    def hidden(self, offset_CM: Tensor) -> Tensor:
        """Mark the pairs that the mask hides: [C, M]."""
        hidden_CM = offset_CM > 0 if self.mask.causal else torch.zeros_like(offset_CM, dtype=torch.bool)
        return hidden_CM if self.mask.window is None else hidden_CM | (offset_CM.abs() >= self.mask.window)


class Vectors(NamedTuple):
    """The learned vectors for keys and for values, by relative position: each [H, R, D]."""

    keys: Tensor
    values: Tensor


def attend_to_near_and_far(
    q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, *, vectors: Vectors, relations: Relations
) -> Tensor:
    """Attend with scale q . (k + a_K) as scores to v + a_V: out_BHTD. Gradients are exact. Memory: O(B H (T + S) D)."""
    out_BHTD: Tensor = _NearAndFar.apply(q_BHTD, k_BHSD, v_BHSD, *vectors, relations)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return out_BHTD


class _Near:
    """The keys near a block of queries: their scores, and sums from relative positions to pairs and back."""

    def __init__(self, tensors: tuple[Tensor, ...], span: Span, relations: Relations) -> None:
        q_BHTD, k_BHSD, v_BHSD, vectors_HRD, _ = tensors
        self.q, self.k, self.v = q_BHTD[:, :, span.rows], k_BHSD[:, :, span.near], v_BHSD[:, :, span.near]
        self.wide = wide_dtype(self.q.dtype)
        offset_CM = relations.offsets(span, self.q.device)
        relation_CM = offset_CM.clamp(-relations.clip, relations.clip) + relations.clip
        self._relation_BHCM = relation_CM.expand(*self.q.shape[:2], *relation_CM.shape)
        self.biases_BHCR = (self.q @ vectors_HRD.mT).to(self.wide) * relations.scale
        scores_BHCM = self.spread(self.biases_BHCR, (self.q @ self.k.mT).to(self.wide) * relations.scale)
        self.scores_BHCM = scores_BHCM.masked_fill_(relations.hidden(offset_CM), -torch.inf)

    def spread(self, x_BHCR: Tensor, to_BHCM: Tensor) -> Tensor:
        """Add to each pair the number of its relative position, in place."""
        return to_BHCM.add_(x_BHCR.gather(-1, self._relation_BHCM))

    def gathered(self, x_BHCM: Tensor) -> Tensor:
        """Sum over the pairs of each relative position: [B, H, C, R]."""
        return torch.zeros_like(self.biases_BHCR).scatter_add_(-1, self._relation_BHCM, x_BHCM)


class _Results(NamedTuple):
    """The output [B, H, T, D] and the log-sum-exp of all scores [B, H, T].

    By side, the output of the far keys alone [F, B, H, T, D], and their share of all weights [F, B, H, T].
    """

    out: Tensor
    lse: Tensor
    far: Tensor
    share: Tensor

    def of(self, rows: slice) -> "_Results":
        """Return a block's part, as views."""
        return _Results(self.out[..., rows, :], self.lse[..., rows], self.far[..., rows, :], self.share[..., rows])


class _NearAndFar(torch.autograd.Function):
    """Block by block; scores are recomputed for the gradient, the far keys' outputs kept.

    By hand, as autograd would keep the scores: `shaw` would take 1.6 times as long for both passes and hold 3.7
    (causal) to 5.9 times the memory (2048 tokens).
    """

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        *tensors, relations = given
        q_BHTD = tensors[0]
        out_BHTD = torch.empty_like(q_BHTD, memory_format=torch.contiguous_format)
        lse_BHT = q_BHTD.new_empty(q_BHTD.shape[:3], dtype=wide_dtype(q_BHTD.dtype))
        share_FBHT = torch.full_like(lse_BHT.expand(2, -1, -1, -1), -torch.inf, memory_format=torch.contiguous_format)
        results = _Results(out_BHTD, lse_BHT, q_BHTD.new_zeros(2, *q_BHTD.shape), share_FBHT)
        for span in relations.spans():
            _attend(tuple(tensors), span, relations, results.of(span.rows))
        ctx.save_for_backward(*tensors, *results)
        ctx.relations = relations
        return out_BHTD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BHTD: Tensor) -> tuple[Tensor | None, ...]:
        tensors, results = ctx.saved_tensors[:5], _Results(*ctx.saved_tensors[5:])
        sums = tuple(torch.zeros_like(x, dtype=results.lse.dtype) for x in tensors)
        for span in ctx.relations.spans():
            block = _Backward(tensors, span, ctx.relations)
            block.add_near(sums, grad_BHTD[:, :, span.rows], results.of(span.rows))
            block.add_far(sums, grad_BHTD[:, :, span.rows], results.of(span.rows))
        return (*(total.to(x.dtype) for total, x in zip(sums, tensors, strict=True)), None)


def _attend(tensors: tuple[Tensor, ...], span: Span, relations: Relations, results: _Results) -> None:
    """Write a block's results."""
    near, values_HRD = _Near(tensors, span, relations), tensors[4]
    for side, keys in span.sides():
        out, lse = kernel_for(near.q.device).forward(_far(tensors, span, keys, relations))
        results.far[side] = out
        results.share[side] = lse + near.biases_BHCR[..., -side]
    all_lses = torch.cat([near.scores_BHCM.logsumexp(dim=-1)[None], results.share])
    results.lse.copy_(all_lses.logsumexp(dim=0))
    results.share.sub_(results.lse).exp_()
    weights_BHCM = near.scores_BHCM.sub_(results.lse[..., None]).exp_()
    shares_BHCR = near.gathered(weights_BHCM)
    out_BHCD = (weights_BHCM.to(near.v.dtype) @ near.v).to(near.wide)
    for side, _ in span.sides():
        shares_BHCR[..., -side] += results.share[side]
        out_BHCD += results.share[side][..., None] * results.far[side]
    results.out.copy_(out_BHCD + shares_BHCR.to(near.v.dtype) @ values_HRD)


class _Backward:
    """A block's part of the gradients: ds = weights * (grad . (v + a_V) - grad . out)."""

    def __init__(self, tensors: tuple[Tensor, ...], span: Span, relations: Relations) -> None:
        self._tensors, self._span, self._relations = tensors, span, relations
        self._near = _Near(tensors, span, relations)

    def add_near(self, sums: tuple[Tensor, ...], grad: Tensor, results: _Results) -> None:
        """Add to the gradients of q, near k and v, and the vectors, which far keys take part in by their share."""
        near, span, (_, _, _, vectors_HRD, values_HRD) = self._near, self._span, self._tensors
        weights_BHCM = near.scores_BHCM.sub_(results.lse[..., None]).exp_()
        of_out_BHC1 = (grad * results.out).to(near.wide).sum(dim=-1, keepdim=True)
        of_values_BHCR = (grad @ values_HRD.mT).to(near.wide) - of_out_BHC1
        ds_BHCM = near.spread(of_values_BHCR, (grad @ near.v.mT).to(near.wide)).mul_(weights_BHCM)
        shares_BHCR, ds_BHCR = near.gathered(weights_BHCM), near.gathered(ds_BHCM)
        for side, _ in span.sides():
            share, of_far = results.share[side], (grad * results.far[side]).to(near.wide).sum(dim=-1)
            shares_BHCR[..., -side] += share
            ds_BHCR[..., -side] += share * (of_far + of_values_BHCR[..., -side])
        scaled_BHCM, scaled_BHCR = ((ds * self._relations.scale).to(grad.dtype) for ds in (ds_BHCM, ds_BHCR))
        sums[0][:, :, span.rows] += scaled_BHCM @ near.k + scaled_BHCR @ vectors_HRD
        sums[1][:, :, span.near] += scaled_BHCM.mT @ near.q
        sums[2][:, :, span.near] += weights_BHCM.to(grad.dtype).mT @ grad
        sums[3].add_((scaled_BHCR.mT @ near.q).sum(dim=0))
        sums[4].add_((shares_BHCR.to(grad.dtype).mT @ grad).sum(dim=0))

    def add_far(self, sums: tuple[Tensor, ...], grad: Tensor, results: _Results) -> None:
        """Add to the gradients of q and far k and v by the kernel, whose scores lack a_K and whose values lack a_V."""
        near, span, values_HRD = self._near, self._span, self._tensors[4]
        for side, keys in span.sides():
            out = results.out - values_HRD[:, -side, None]
            chunk = _far(self._tensors, span, keys, self._relations)
            lse = results.lse - near.biases_BHCR[..., -side]
            dq, dk, dv = kernel_for(grad.device).backward(chunk, grad, out, lse)
            sums[0][:, :, span.rows] += dq
            sums[1][:, :, keys] += dk
            sums[2][:, :, keys] += dv


def _far(tensors: tuple[Tensor, ...], span: Span, keys: slice, relations: Relations) -> Chunks:
    q_BHTD, k_BHSD, v_BHSD = tensors[:3]
    return Chunks(q_BHTD[:, :, span.rows], k_BHSD[:, :, keys], v_BHSD[:, :, keys], scale=relations.scale)
