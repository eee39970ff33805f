"""One softmax over keys in several parts: each is attended to separately, and weighed by its log-sum-exp.

    out = sum_p exp(lse_p - L) out_p,   L = logsumexp_p(lse_p)

(Milakov and Gimelshein 2018, "Online normalizer calculation for softmax", section 3.1; Dao 2023, "FlashAttention-2",
section 3.1).
"""
# X sequences (batch x heads), N queries, D head dimension; chunks [X, C, M, D] or [B, H, T, D] as in `lse_kernels`

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from attnbench_variants.blocks.dtypes import wide_dtype
from attnbench_variants.blocks.lse_kernels import Chunks, Kernel, masked


class Part(NamedTuple):
    """Some of the queries, and what they see of the keys. A key that a query sees in two parts counts twice.

    Flattened but for the last dimension, the queries of `chunks` are the `rows` of the N queries of each of the X
    sequences, in order; with several `columns`, in the order in which a matrix of so many columns, filled row by row,
    is read column by column.
    """

    chunks: Chunks
    rows: slice = slice(None)
    columns: int = 1

    def of_rows(self, x_XN: Tensor) -> Tensor:
        """Return the part's rows of x_XN... in its own order, [..., M] and further dimensions."""
        rows_XM = x_XN[:, self.rows]
        in_order = rows_XM.reshape(len(x_XN), -1, self.columns, *x_XN.shape[2:]).transpose(1, 2)
        return in_order.reshape(*self.chunks.q.shape[:-1], *x_XN.shape[2:])

    def to_rows(self, x: Tensor, like_XM: Tensor) -> Tensor:
        """Return x, in the part's own order, in that of the rows: of the shape of like_XM."""
        size = (len(like_XM), self.columns, -1, *like_XM.shape[2:])
        return x.reshape(size).transpose(1, 2).reshape(like_XM.shape)


def attend_in_parts(parts: Sequence[Part], *, queries: int, kernel: Kernel) -> Tensor:
    """Attend with N queries to what they see in all parts together: out_XND, in the dtype of the values.

    The gradients of each part's q, k and v are exact; a mask has none. Sums are held in float32 or wider. A row that is
    in no part is zero. Memory beyond that of the kernels: O(X N D).
    """
    tensors = [x for part in parts for x in part.chunks[:3]]
    out_XND: Tensor = _Parts.apply(_Form(tuple(parts), queries, kernel), *tensors)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return out_XND


class _Form(NamedTuple):
    parts: tuple[Part, ...]
    queries: int
    kernel: Kernel


class _Parts(torch.autograd.Function):
    """Scores are recomputed for the gradient, part by part: a kernel's backward with the merged output and its lse.

    By hand, as autograd would keep the scores: `ring`, `sparse-strided` and `sparse-fixed` would take 1.8 to 2.7 times
    as long for both passes and hold 2 to 6 times the memory (2048 tokens).
    """

    @staticmethod
    def forward(ctx: Any, form: _Form, *tensors: Tensor) -> Tensor:
        merged = _Merged(tensors[0], form)
        for part in form.parts:
            merged.add(*form.kernel.forward(part.chunks), part)
        out_XND = merged.out_XND.to(tensors[2].dtype)
        ctx.save_for_backward(*tensors, out_XND, merged.lse_XN.to(merged.out_XND.dtype))
        # What is differentiated is kept by autograd alone, which frees it.
        ctx.form = form._replace(parts=tuple(_without_tensors(part) for part in form.parts))
        return out_XND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_XND: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, out_XND, lse_XN = ctx.saved_tensors
        gradients: list[Tensor | None] = [None]
        for part in _with_tensors(ctx.form.parts, tensors):
            of_rows = (part.of_rows(x) for x in (grad_XND, out_XND, lse_XN))
            gradients.extend(ctx.form.kernel.backward(part.chunks, *of_rows))
        return tuple(gradients)


class _Merged:
    """The output [X, N, D] over the parts so far, in float32 or wider, and its log-sum-exp [X, N].

    The latter in float64: an error in it is one of all weights, and each part would add its own.
    """

    def __init__(self, q: Tensor, form: _Form) -> None:
        rows = len(range(*form.parts[0].rows.indices(form.queries)))
        size = q[..., 0].numel() // rows, form.queries, q.shape[-1]
        self.out_XND = q.new_zeros(size, dtype=wide_dtype(q.dtype))
        # Of no key: finite, as the difference of two infinities is not a number.
        lowest = masked(torch.float64)
        self.lse_XN = q.new_full(self.out_XND.shape[:2], lowest, dtype=torch.float64)

    def add(self, out: Tensor, lse: Tensor, part: Part) -> None:
        """Merge a part's output [..., D] and log-sum-exp [...] into those so far."""
        out_XMD, lse_XM = self.out_XND[:, part.rows], self.lse_XN[:, part.rows]
        merge_into(out_XMD, lse_XM, out=part.to_rows(out, out_XMD), lse=part.to_rows(lse, lse_XM))


def merge_into(out_XMD: Tensor, lse_XM: Tensor, *, out: Tensor, lse: Tensor) -> None:
    """Merge a part's output [..., D] and log-sum-exp [...] into those so far, in place."""
    added_XM = lse.reshape(lse_XM.shape)
    total_XM = torch.logaddexp(lse_XM.double(), added_XM.double())
    out_XMD.mul_((lse_XM - total_XM).exp_().to(out_XMD.dtype)[..., None])
    share_XM1 = (added_XM - total_XM).exp_().to(out_XMD.dtype)[..., None]
    out_XMD.addcmul_(out.reshape(out_XMD.shape).to(out_XMD.dtype), share_XM1)
    lse_XM.copy_(total_XM)


def _without_tensors(part: Part) -> Part:
    nothing = part.chunks.q.new_empty(0)
    return part._replace(chunks=part.chunks._replace(q=nothing, k=nothing, v=nothing))


def _with_tensors(parts: Sequence[Part], tensors: Sequence[Tensor]) -> Iterator[Part]:
    for i, part in enumerate(parts):
        q, k, v = tensors[3 * i : 3 * i + 3]
        yield part._replace(chunks=part.chunks._replace(q=q, k=k, v=v))
