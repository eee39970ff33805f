"""Attention in hash order where queries are the keys too, k = q / |q|, as in Reformer; and its exact gradient."""
# X sequences (batch x heads), R rounds, N tokens, D head dimension

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from attnbench_variants.blocks.dtypes import wide_dtype
from attnbench_variants.blocks.lse_kernels import Kernel, masked
from attnbench_variants.hashing.hash_rounds import (
    Qkv,
    Result,
    attend_in_rounds,
    blocks,
    buffers_for,
    gradients_in_rounds,
)
from attnbench_variants.hashing.sorted_chunks import ChunkLayout, SortedChunks


def attend_shared_qk(
    qk_XND: Tensor, v_XND: Tensor, order_XRN: Tensor, *, layout: ChunkLayout, kernel: Kernel
) -> Tensor:
    """Attend in each round within the chunks of its order: out_XND. Differentiable.

    A token that sees no other gets its own value. The gradient of qk is that of the queries and of the keys.
    """
    out_XND: Tensor = _SharedQk.apply(qk_XND, v_XND, order_XRN, layout, kernel)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return out_XND


class _SharedQk(torch.autograd.Function):
    """A few sequences at a time, so that copies in hash order are small. Scores are recomputed for the gradient.

    By hand, as autograd would keep the scores: `reformer` would take 1.6 (causal: 2) times as long for both passes and
    hold 6 times the memory (2048 tokens).
    """

    @staticmethod
    def forward(
        ctx: Any, qk_XND: Tensor, v_XND: Tensor, order_XRN: Tensor, layout: ChunkLayout, kernel: Kernel
    ) -> Tensor:
        out_XND = torch.empty_like(v_XND)
        lse_XN = v_XND.new_empty(v_XND.shape[:2], dtype=wide_dtype(v_XND.dtype))
        several = blocks(*v_XND.shape[:2], device=v_XND.device)
        rounds = order_XRN.shape[1]
        buffers = buffers_for(v_XND[several[0]], rounds=rounds, chunks=layout.chunks, slots=layout.chunk)
        for few in several:
            k_XND, _ = _unit_length(qk_XND[few])
            qkv, sorted_chunks = Qkv(qk_XND[few], k_XND, v_XND[few]), _rounds(order_XRN[few], layout)
            merged_XND, lse_XN[few] = attend_in_rounds(qkv, sorted_chunks, kernel=kernel, buffers=buffers)
            out_XND[few] = merged_XND.where(~_sees_none(lse_XN[few], v_XND.dtype), qkv.v)
        ctx.save_for_backward(qk_XND, v_XND, order_XRN, out_XND, lse_XN)
        ctx.form = layout, kernel
        return out_XND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_XND: Tensor) -> tuple[Tensor | None, ...]:
        qk_XND, v_XND, order_XRN, out_XND, lse_XN = ctx.saved_tensors
        layout, kernel = ctx.form
        dqk_XND, dv_XND = torch.empty_like(out_XND), torch.empty_like(out_XND)
        for few in blocks(*v_XND.shape[:2], device=v_XND.device):
            rounds = _rounds(order_XRN[few], layout)
            k_XND, inverse_norm_XN1 = _unit_length(qk_XND[few])
            none_XN1 = _sees_none(lse_XN[few], v_XND.dtype)
            result = Result(out_XND[few], grad_XND[few], lse_XN[few].masked_fill(none_XN1[..., 0], 0))
            dq, dk, dv = gradients_in_rounds(Qkv(qk_XND[few], k_XND, v_XND[few]), rounds, kernel=kernel, result=result)
            # The key is q / |q|: only the part of its gradient that is across it turns it.
            dk -= k_XND * (dk * k_XND).sum(dim=-1, keepdim=True)
            dqk_XND[few] = dq + dk * inverse_norm_XN1
            dv_XND[few] = dv + grad_XND[few].where(none_XN1, 0)
        return dqk_XND, dv_XND, None, None, None


def _rounds(order_XRN: Tensor, layout: ChunkLayout) -> list[SortedChunks]:
    return [SortedChunks(order_XN, layout) for order_XN in order_XRN.unbind(1)]


def _unit_length(q_XND: Tensor) -> tuple[Tensor, Tensor]:
    """Return the keys, k = q / |q|, and 1 / |q|; both 0 where q is 0."""
    norm_XN1 = torch.linalg.vector_norm(q_XND, dim=-1, keepdim=True, dtype=wide_dtype(q_XND.dtype))
    inverse_norm_XN1 = norm_XN1.reciprocal().masked_fill_(norm_XN1 == 0, 0)
    return (q_XND * inverse_norm_XN1).to(q_XND.dtype), inverse_norm_XN1


def _sees_none(lse_XN: Tensor, dtype: torch.dtype) -> Tensor:
    """Mark, as [X, N, 1], the tokens that see no other one in any round: they attend to themselves (section 2)."""
    return (lse_XN < masked(dtype) / 2)[..., None]
