"""Attention in hash order where queries are the keys too, as in Reformer; and its exact gradient.

X sequences (batch x heads), R rounds, N tokens, D head dimension.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from attnbench_variants.blocks.lse_kernels import Kernel, masked
from attnbench_variants.hashing.hash_rounds import (
    Qkv,
    Result,
    attend_in_rounds,
    blocks,
    gradients_in_rounds,
    room_for,
    wide,
)
from attnbench_variants.hashing.sorted_chunks import Cut, Places


class Form(NamedTuple):
    """What all sequences and rounds share."""

    cut: Cut
    kernel: Kernel


def attend_tied(qk_XND: Tensor, v_XND: Tensor, order_XRN: Tensor, *, form: Form) -> Tensor:
    """Attend in each round within the chunks of its order, with keys q / |q|.

    A token that sees no other gets its own value. Gives [X, N, D]. The gradients of qk, as query and as key, and of v
    are exact.
    """
    out_XND: Tensor = _Tied.apply(qk_XND, v_XND, order_XRN, form)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return out_XND


class _Tied(torch.autograd.Function):
    """A few sequences at a time, so that copies in hash order are small. Scores are recomputed for the gradient."""

    @staticmethod
    def forward(ctx: Any, qk_XND: Tensor, v_XND: Tensor, order_XRN: Tensor, form: Form) -> Tensor:
        out_XND = torch.empty_like(v_XND)
        lse_XN = v_XND.new_empty(v_XND.shape[:2], dtype=wide(v_XND.dtype))
        several = blocks(*v_XND.shape[:2], device=v_XND.device)
        sizes = {"rounds": order_XRN.shape[1], "chunks": form.cut.chunks, "places": form.cut.chunk}
        room = room_for(v_XND[several[0]], **sizes)
        for few in several:
            k_XND, _ = _unit_length(qk_XND[few])
            qkv, rounds = Qkv(qk_XND[few], k_XND, v_XND[few]), _rounds(order_XRN[few], form)
            found_XND, lse_XN[few] = attend_in_rounds(qkv, rounds, kernel=form.kernel, room=room)
            out_XND[few] = found_XND.where(~_alone(lse_XN[few], v_XND.dtype), qkv.v)
        ctx.save_for_backward(qk_XND, v_XND, order_XRN, out_XND, lse_XN)
        ctx.form = form
        return out_XND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_XND: Tensor) -> tuple[Tensor, Tensor, None, None]:
        qk_XND, v_XND, order_XRN, out_XND, lse_XN = ctx.saved_tensors
        dqk_XND, dv_XND = torch.empty_like(out_XND), torch.empty_like(out_XND)
        for few in blocks(*v_XND.shape[:2], device=v_XND.device):
            result = Result(out_XND[few], grad_XND[few], lse_XN[few])
            rounds = _rounds(order_XRN[few], ctx.form)
            dqk_XND[few], dv_XND[few] = _gradients(
                qk_XND[few], v_XND[few], rounds, kernel=ctx.form.kernel, result=result
            )
        return dqk_XND, dv_XND, None, None


def _gradients(
    qk_XND: Tensor, v_XND: Tensor, rounds: Sequence[Places], *, kernel: Kernel, result: Result
) -> tuple[Tensor, Tensor]:
    k_XND, inverse_norm_XN1 = _unit_length(qk_XND)
    alone_XN1 = _alone(result.lse, v_XND.dtype)
    among_others = result._replace(lse=result.lse.masked_fill(alone_XN1[..., 0], 0))
    qkv = Qkv(qk_XND, k_XND, v_XND)
    dq_XND, dk_XND, dv_XND = gradients_in_rounds(qkv, rounds, kernel=kernel, result=among_others)
    # The key is q / |q|: only what is across it turns it.
    dk_XND -= k_XND * (dk_XND * k_XND).sum(dim=-1, keepdim=True)
    return dq_XND + dk_XND * inverse_norm_XN1, dv_XND + result.grad.where(alone_XN1, 0)


def _rounds(order_XRN: Tensor, form: Form) -> list[Places]:
    return [Places(order_XN, form.cut) for order_XN in order_XRN.unbind(1)]


def _unit_length(q_XND: Tensor) -> tuple[Tensor, Tensor]:
    """Give the keys, k = q / |q|, and 1 / |q|; both 0 where q is 0."""
    norm_XN1 = torch.linalg.vector_norm(q_XND, dim=-1, keepdim=True, dtype=wide(q_XND.dtype))
    inverse_norm_XN1 = norm_XN1.reciprocal().masked_fill_(norm_XN1 == 0, 0)
    return (q_XND * inverse_norm_XN1).to(q_XND.dtype), inverse_norm_XN1


def _alone(lse_XN: Tensor, dtype: torch.dtype) -> Tensor:
    """Tell, as [X, N, 1], which tokens see no other one in any round: they attend to themselves (section 2)."""
    return (lse_XN < masked(dtype) / 2)[..., None]
