"""Attention in hash order, all rounds merged into one softmax by their log-sum-exps; and its exact gradient.

X sequences (batch x heads), R rounds, N tokens, C chunks of M places, W = 2M keys that a chunk sees, Z = X x N tokens,
D head dimension.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from attnbench_variants.blocks.lse_kernels import Chunks, Kernel
from attnbench_variants.hashing.places import Cut, Places, masked, sum_rows, tokens_at_a_time


class Sequences(NamedTuple):
    """Shared queries and keys and values [X, N, D], and the order of the tokens in each round [X, R, N]."""

    qk: Tensor
    v: Tensor
    order: Tensor


class Form(NamedTuple):
    """What all sequences and rounds share; no mask [1, C, M, W] where each round has its own, as causal ones have."""

    cut: Cut
    kernel: Kernel
    mask: Tensor | None


class _Room(NamedTuple):
    """Room for the results of all rounds of some sequences: outputs [R, X, C, M, D], log-sum-exps [R, X, C, M].

    It is taken once a call: taken for each sequence anew it goes back to the system each time and is faulted in again.
    """

    out: Tensor
    lse: Tensor

    @classmethod
    def for_results(cls, v_XND: Tensor, form: Form, rounds: int) -> "_Room":
        """Take it for as many sequences as these."""
        places = (rounds, len(v_XND), form.cut.chunks, form.cut.chunk)
        lse = v_XND.new_empty(places, dtype=torch.promote_types(v_XND.dtype, torch.float32))
        return cls(v_XND.new_empty(*places, v_XND.shape[2]), lse)


class _Result(NamedTuple):
    """What was put out and its gradient [X, N, D], and its log-sum-exp over all rounds [X, N]."""

    out: Tensor
    grad: Tensor
    lse: Tensor


def attend_in_rounds(sequences: Sequences, form: Form) -> Tensor:
    """Attend in each round within the chunks of its order; weigh the rounds by their share of the softmax's sum.

    Gives [X, N, D]. The gradients of qk (as query and as key) and v are exact.
    """
    out_XND: Tensor = _Rounds.apply(*sequences, form)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return out_XND


class _Rounds(torch.autograd.Function):
    """A few sequences at a time, so that copies in hash order are small. Scores are recomputed for the gradient."""

    @staticmethod
    def forward(ctx: Any, qk_XND: Tensor, v_XND: Tensor, order_XRN: Tensor, form: Form) -> Tensor:
        sequences = Sequences(qk_XND, v_XND, order_XRN)
        out_XND = torch.empty_like(v_XND)
        lse_XN = v_XND.new_empty(v_XND.shape[:2], dtype=torch.promote_types(v_XND.dtype, torch.float32))
        room = _Room.for_results(v_XND[_blocks(order_XRN)[0]], form, order_XRN.shape[1])
        for few in _blocks(order_XRN):
            out_XND[few], lse_XN[few] = _attend(Sequences(*(x[few] for x in sequences)), form, room=room)
        ctx.save_for_backward(*sequences, out_XND, lse_XN)
        ctx.form = form
        return out_XND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_XND: Tensor) -> tuple[Tensor, Tensor, None, None]:
        *inputs, out_XND, lse_XN = ctx.saved_tensors
        dqk_XND, dv_XND = torch.empty_like(out_XND), torch.empty_like(out_XND)
        for few in _blocks(inputs[2]):
            result = _Result(out_XND[few], grad_XND[few], lse_XN[few])
            dqk_XND[few], dv_XND[few] = _gradients(Sequences(*(x[few] for x in inputs)), ctx.form, result=result)
        return dqk_XND, dv_XND, None, None


def _attend(sequences: Sequences, form: Form, *, room: _Room) -> tuple[Tensor, Tensor]:
    """Give the output and its log-sum-exp over all rounds (appendix A, equations 8 to 10)."""
    v_XND = sequences.v
    k_XND, _ = _unit_length(sequences.qk)
    rounds = [Places(order_XN, form.cut) for order_XN in sequences.order.unbind(1)]
    for places, out_XCMD, lse_XCM in zip(rounds, *room, strict=True):
        for run in form.cut.runs(len(v_XND)):
            chunks = _chunks(places, form, sequences=sequences, k_XND=k_XND, run=run)
            out_XCMD[: len(v_XND), run], lse_XCM[: len(v_XND), run] = form.kernel.forward(chunks)
    row_ZR = torch.cat([places.of_queries(out_XCMD) for places, out_XCMD in zip(rounds, room.out, strict=True)], dim=1)
    lse_ZR = room.lse.view(-1)[row_ZR]
    lse_Z1 = lse_ZR.logsumexp(dim=1, keepdim=True)
    share_ZR = (lse_ZR - lse_Z1).exp_().to(v_XND.dtype)
    out_XND = sum_rows(room.out, row_ZR, weights=share_ZR).view_as(v_XND)
    lse_XN = lse_Z1.view(v_XND.shape[:2])
    return out_XND.where(~_alone(lse_XN, v_XND.dtype), v_XND), lse_XN


def _gradients(sequences: Sequences, form: Form, *, result: _Result) -> tuple[Tensor, Tensor]:
    """Give the gradients of qk and v: a round's weights are its part of the one softmax that this log-sum-exp ends."""
    out_XND, grad_XND, lse_XN = result
    k_XND, inverse_norm_XN1 = _unit_length(sequences.qk)
    every = slice(0, form.cut.chunks)
    alone_XN1 = _alone(lse_XN, out_XND.dtype)
    lse_XN1 = lse_XN[..., None].masked_fill(alone_XN1, 0)
    dv_XND = grad_XND.where(alone_XN1, 0).to(lse_XN.dtype)
    dq_XND, dk_XND = torch.zeros_like(dv_XND), torch.zeros_like(dv_XND)
    for order_XN in sequences.order.unbind(1):
        places = Places(order_XN, form.cut)
        lse_XCM = places.in_order(lse_XN1, every)[..., 0]
        lse_XCM.flatten(1)[:, form.cut.tokens :] = -masked(out_XND.dtype)  # no weight for queries in empty places
        chunks = _chunks(places, form, sequences=sequences, k_XND=k_XND, run=every)
        grads = form.kernel.backward(chunks, places.in_order(grad_XND, every), places.in_order(out_XND, every), lse_XCM)
        dq_XND += sum_rows(grads[0], places.of_queries(grads[0])).view_as(dq_XND)
        dk_XND += sum_rows(grads[1], places.of_keys(grads[1])).view_as(dk_XND)
        dv_XND += sum_rows(grads[2], places.of_keys(grads[2])).view_as(dv_XND)
    # The key is q / |q|: only what is across it turns it.
    dk_XND -= k_XND * (dk_XND * k_XND).sum(dim=-1, keepdim=True)
    return dq_XND + dk_XND * inverse_norm_XN1, dv_XND


def _chunks(places: Places, form: Form, *, sequences: Sequences, k_XND: Tensor, run: slice) -> Chunks:
    qk_XND, v_XND, _ = sequences
    mask_XCMW = places.causal_mask(v_XND.dtype, run) if form.mask is None else form.mask[:, run]
    return Chunks(places.in_order(qk_XND, run), places.windows(k_XND, run), places.windows(v_XND, run), mask_XCMW)


def _unit_length(q_XND: Tensor) -> tuple[Tensor, Tensor]:
    """Give the keys, k = q / |q|, and 1 / |q|; both 0 where q is 0."""
    dtype = torch.promote_types(q_XND.dtype, torch.float32)
    norm_XN1 = torch.linalg.vector_norm(q_XND, dim=-1, keepdim=True, dtype=dtype)
    inverse_norm_XN1 = norm_XN1.reciprocal().masked_fill_(norm_XN1 == 0, 0)
    return (q_XND * inverse_norm_XN1).to(q_XND.dtype), inverse_norm_XN1


def _alone(lse_XN: Tensor, dtype: torch.dtype) -> Tensor:
    """Tell, as [X, N, 1], which tokens see no other one in any round: they attend to themselves (section 2)."""
    return (lse_XN < masked(dtype) / 2)[..., None]


def _blocks(order_XRN: Tensor) -> list[slice]:
    sequences, _, tokens = order_XRN.shape
    step = max(1, tokens_at_a_time(order_XRN.device) // tokens)
    return [slice(first, first + step) for first in range(0, sequences, step)]
