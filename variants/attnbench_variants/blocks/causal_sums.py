"""Causal averages by features: one running sum, a run of rows after another, so that all stays in a CPU core's cache.

With gradients they are faster by hand: autograd would keep a state for every chunk, and take each product for all of
the sequence at once.
"""
# X = B * H sequences, T rows, D dimension of the values, E = D + 1 (values and a one), F features; runs of M rows,
# N chunks of C, Z = X * N

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from attnbench_variants.blocks.feature_sums import or_one, runs

# Rows taken at once, few enough to stay in a CPU core's cache, and rows among which every pair has a weight, of which
# half are none.
STREAMED_RUN, STREAMED_CHUNK = 256, 64


class Gradients(NamedTuple):
    """Of a run's queries, keys and values (with their ones)."""

    q_XMF: torch.Tensor
    k_XMF: torch.Tensor
    v_XME: torch.Tensor


def causal_average(
    q_XTF: torch.Tensor, k_XTF: torch.Tensor, v_XTD: torch.Tensor, state_XFE: torch.Tensor
) -> torch.Tensor:
    """Average v_s by q_t . k_s over s up to t, and over what the state holds of earlier keys: out_XTD. Differentiable.

    Features are not negative. `state_XFE` is sum_s k_s [v_s, 1]; a query without weight on any key gets zeros.
    """
    out_XTD: torch.Tensor = _CausalAverage.apply(q_XTF, k_XTF, v_XTD, state_XFE)  # type: ignore[no-untyped-call]
    return out_XTD


class _CausalAverage(torch.autograd.Function):
    """`causal_average`: forward it keeps the state before each run, backward it walks the runs from the last one on."""

    @staticmethod
    def forward(
        ctx: Any, q_XTF: torch.Tensor, k_XTF: torch.Tensor, v_XTD: torch.Tensor, state_XFE: torch.Tensor
    ) -> torch.Tensor:
        """Give out_XTD."""
        out_XTD, weights_XT1 = torch.empty_like(v_XTD), torch.empty_like(v_XTD[..., :1])
        before_XFE, states_XFE = state_XFE.clone(), []
        for rows in chunked_runs(q_XTF.shape[1]):
            states_XFE.append(before_XFE.clone())
            y_XME = read_run(q_XTF[:, rows], k_XTF[:, rows], with_ones(v_XTD[:, rows]), before_XFE)
            weights_XT1[:, rows] = or_one(y_XME[..., -1:])
            torch.div(y_XME[..., :-1], weights_XT1[:, rows], out=out_XTD[:, rows])
        ctx.save_for_backward(q_XTF, k_XTF, v_XTD, out_XTD, weights_XT1, *states_XFE)
        return out_XTD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_XTD: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Give the gradients of the queries, the keys, the values and the state."""
        q_XTF, k_XTF, v_XTD, out_XTD, weights_XT1, *states_XFE = ctx.saved_tensors
        dq_XTF, dk_XTF, dv_XTD = (torch.empty_like(x) for x in (q_XTF, k_XTF, v_XTD))
        after_XFE = torch.zeros_like(states_XFE[0])  # the gradient of the state after a run: sum_t q_t dy_t
        for rows, state_XFE in reversed(list(zip(chunked_runs(q_XTF.shape[1]), states_XFE, strict=True))):
            q_XMF, k_XMF, v_XMD = (x[:, rows] for x in (q_XTF, k_XTF, v_XTD))
            dy_XME = q_XMF.new_empty(*v_XMD.shape[:2], state_XFE.shape[2])  # of the sums that were divided
            dy_XMD = torch.div(gradient_XTD[:, rows], weights_XT1[:, rows], out=dy_XME[..., :-1])
            torch.sum(dy_XMD * out_XTD[:, rows], dim=2, keepdim=True, out=dy_XME[..., -1:]).neg_()
            of_run = read_run_backward(q_XMF, k_XMF, with_ones(v_XMD), dy_XME, state_XFE, after_XFE)
            dq_XTF[:, rows], dk_XTF[:, rows], dv_XTD[:, rows] = of_run.q_XMF, of_run.k_XMF, of_run.v_XME[..., :-1]
        return dq_XTF, dk_XTF, dv_XTD, after_XFE


def read_run(q_XMF: torch.Tensor, k_XMF: torch.Tensor, v_XME: torch.Tensor, state_XFE: torch.Tensor) -> torch.Tensor:
    """Sum v_s (q_t . k_s) over s up to t, and over what the state holds, to which all keys are then added: y_XME."""
    q_ZCF, k_ZCF, v_ZCE = _chunks(q_XMF, k_XMF, v_XME)
    before_ZFE = _sums_before(k_ZCF, v_ZCE, state_XFE)
    y_ZCE = torch.bmm(torch.bmm(q_ZCF, k_ZCF.mT).tril_(), v_ZCE)
    return y_ZCE.baddbmm_(q_ZCF, before_ZFE).view_as(v_XME)


def read_run_backward(
    q_XMF: torch.Tensor,
    k_XMF: torch.Tensor,
    v_XME: torch.Tensor,
    dy_XME: torch.Tensor,
    state_XFE: torch.Tensor,
    after_XFE: torch.Tensor,
) -> Gradients:
    """Give a run's gradients for `dy_XME`, those of the sums that `read_run` gave from the state before it.

    `after_XFE` is the gradient of the state after the run; when this returns, it is that of the state before it.
    """
    q_ZCF, k_ZCF, v_ZCE, dy_ZCE = _chunks(q_XMF, k_XMF, v_XME, dy_XME)
    before_ZFE = _sums_before(k_ZCF, v_ZCE, state_XFE.clone())
    after_ZFE = _sums_before(q_ZCF, dy_ZCE, after_XFE, backwards=True)
    weights_ZCC, dweights_ZCC = torch.bmm(q_ZCF, k_ZCF.mT).tril_(), torch.bmm(dy_ZCE, v_ZCE.mT).tril_()
    dq_ZCF = torch.bmm(dweights_ZCC, k_ZCF).baddbmm_(dy_ZCE, before_ZFE.mT)
    dk_ZCF = torch.bmm(dweights_ZCC.mT, q_ZCF).baddbmm_(v_ZCE, after_ZFE.mT)
    dv_ZCE = torch.bmm(weights_ZCC.mT, dy_ZCE).baddbmm_(k_ZCF, after_ZFE)
    return Gradients(dq_ZCF.view_as(q_XMF), dk_ZCF.view_as(k_XMF), dv_ZCE.view_as(v_XME))


def with_ones(v_XMD: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Put a column of ones behind the values, which sums their weights: v_XME."""
    v_XME = v_XMD.new_ones(*v_XMD.shape[:2], v_XMD.shape[2] + 1, dtype=dtype)
    v_XME[..., :-1].copy_(v_XMD)
    return v_XME


def chunked_runs(length: int) -> Iterator[slice]:
    """Split into runs of whole chunks, and a last one of what is less than a chunk."""
    whole = length - length % STREAMED_CHUNK
    yield from runs(whole, STREAMED_RUN)
    if whole < length:
        yield slice(whole, length)


def _chunks(*several: torch.Tensor) -> Iterator[torch.Tensor]:
    """Make chunks a batch of their own: one product is for all of them, and each of its matrices is contiguous."""
    return (x.reshape(-1, min(x.shape[1], STREAMED_CHUNK), x.shape[2]) for x in several)


def _sums_before(
    k_ZCF: torch.Tensor, v_ZCE: torch.Tensor, state_XFE: torch.Tensor, *, backwards: bool = False
) -> torch.Tensor:
    """Give the sum of k_s v_s before each chunk (behind it, `backwards`), and add all to the state, in place."""
    added_XNFE = torch.bmm(k_ZCF.mT, v_ZCE).view(len(state_XFE), -1, *state_XFE.shape[1:])
    before_XNFE = torch.empty_like(added_XNFE)
    chunks = list(zip(before_XNFE.unbind(1), added_XNFE.unbind(1), strict=True))
    for before_XFE, added_XFE in reversed(chunks) if backwards else chunks:
        before_XFE.copy_(state_XFE)
        state_XFE.add_(added_XFE)
    return before_XNFE.flatten(0, 1)
