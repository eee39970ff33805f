"""Pairs of a chunk whose features decay in between, each at its own pace, computed with no factor above one.

    y_i = sum_{j <= i} (sum_d q_id k_jd a_(j+1)d ... a_id) v_j         in a chunk of C positions

By halves of blocks of 2, 4, ... C positions: a query i in the right half and a key j in the left one, of a block whose
halves meet at m, are a product of matrices (q_i a_(m+1) ... a_i) . (k_j a_(j+1) ... a_m), so that nothing is divided by
a decay (what the secondary chunks of Yang et al. 2023, section 4.3, are for).
"""
# Z chunks of C positions, a power of two; D features, E of a value; M blocks, each of two halves of L positions

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.nn.functional import pad

_SMALL = 2  # sums over so few positions are faster term by term than as products of matrices


def attend_by_halves(
    q_XNCD: torch.Tensor, k_XNCD: torch.Tensor, v_XNCE: torch.Tensor, decay_XNCD: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sum over the pairs of each chunk: y_XNCE. Differentiable.

    Returned with it, for the state before and after the chunk: the queries decayed from its start on, q_XNCD; the keys
    decayed up to its end, k_XNCD; and the product of its decays, total_XN1D.
    """
    lead, length = q_XNCD.shape[:2], q_XNCD.shape[2]
    fill = (1 << (length - 1).bit_length()) - length
    q, k, v = (pad(x, (0, 0, 0, fill)).flatten(0, 1).contiguous() for x in (q_XNCD, k_XNCD, v_XNCE))
    decay = pad(decay_XNCD, (0, 0, 0, fill), value=1.0).flatten(0, 1).contiguous()
    y, q, k, total = _ByHalves.apply(q, k, v, decay)  # type: ignore[no-untyped-call] # torch leaves `apply` untyped
    y, q, k = (x.unflatten(0, lead)[:, :, :length] for x in (y, q, k))
    return y, q, k, total.unflatten(0, lead)


def products_by_halves(length: int, dim: int) -> int:
    """Count the operations in matrix products of `attend_by_halves` for a chunk, with D = E; backward has 5 for 2."""
    filled = 1 << (length - 1).bit_length()
    sizes = [2**level for level in range(filled.bit_length() - 1)]
    return sum(filled * half * dim * (2 if half > _SMALL else 1) for half in sizes)


class _ByHalves(torch.autograd.Function):
    """Merge halves in place, from single positions up to the chunk; backward goes the same way back.

    By hand, as autograd would keep the copies of each level: `gla` would take 1.3 times as long for both passes and
    hold 1.65 times the memory (2048 and 4096 tokens).
    """

    @staticmethod
    def forward(ctx: Any, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return (y_ZCE, q_ZCD, k_ZCD, total_Z1D) for (q_ZCD, k_ZCD, v_ZCE, decay_ZCD)."""
        ctx.save_for_backward(*given)
        q_ZCD, k_ZCD, v_ZCE, decay_ZCD = given
        y_ZCE = (q_ZCD * k_ZCD).sum(2, keepdim=True) * v_ZCE
        q_ZCD, k_ZCD, total_M1D = q_ZCD * decay_ZCD, k_ZCD.clone(), decay_ZCD[:, :1]
        for level in _levels(q_ZCD, k_ZCD, decay_ZCD):
            (v_MLE, _), (_, y_MLE) = _halves(v_ZCE, level.half), _halves(y_ZCE, level.half)
            _add_product(y_MLE, level.q_MLD @ level.k_MLD.mT, v_MLE)
            total_M1D = level.left_M1D * level.right_M1D
        return y_ZCE, q_ZCD, k_ZCD, total_M1D

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the gradients of (q_ZCD, k_ZCD, v_ZCE, decay_ZCD)."""
        q_ZCD, k_ZCD, v_ZCE, decay_ZCD = ctx.saved_tensors
        dy_ZCE, dq_ZCD, dk_ZCD, dtotal_M1D = (x.clone(memory_format=torch.contiguous_format) for x in gradients)
        dv_ZCE = (q_ZCD * k_ZCD).sum(2, keepdim=True) * dy_ZCE
        forward = _levels(q_ZCD * decay_ZCD, k_ZCD.clone(), decay_ZCD)
        for level in reversed(
            [level._replace(q_MLD=level.q_MLD.clone(), k_MLD=level.k_MLD.clone()) for level in forward]
        ):
            (_, dq_MLD), (dk_MLD, _), (dv_MLE, _) = (_halves(x, level.half) for x in (dq_ZCD, dk_ZCD, dv_ZCE))
            (v_MLE, _), (_, dy_MLE) = _halves(v_ZCE, level.half), _halves(dy_ZCE, level.half)
            dtotal_M1D = level.before_merging(dq_MLD, dk_MLD, dtotal_M1D)
            dpairs_MLL = dy_MLE @ v_MLE.mT
            _add_product(dq_MLD, dpairs_MLL, level.k_MLD)
            _add_product(dk_MLD, dpairs_MLL.mT, level.q_MLD)
            _add_product(dv_MLE, level.k_MLD @ level.q_MLD.mT, dy_MLE)
        down_ZC1 = (dy_ZCE * v_ZCE).sum(2, keepdim=True)
        ddecay_ZCD = torch.addcmul(dtotal_M1D.view_as(decay_ZCD), dq_ZCD, q_ZCD)
        dq_ZCD = (dq_ZCD * decay_ZCD).addcmul_(down_ZC1, k_ZCD)
        return dq_ZCD, dk_ZCD.addcmul_(down_ZC1, q_ZCD), dv_ZCE, ddecay_ZCD


class _Level(NamedTuple):
    """All blocks of two halves of one size: right halves' queries, left halves' keys, and what each half decays by."""

    half: int
    q_MLD: torch.Tensor
    k_MLD: torch.Tensor
    left_M1D: torch.Tensor
    right_M1D: torch.Tensor

    def merge(self) -> torch.Tensor:
        """Decay queries from the block's start on and keys to its end, in place; return the product of all."""
        self.q_MLD.mul_(self.left_M1D)
        self.k_MLD.mul_(self.right_M1D)
        return self.left_M1D * self.right_M1D

    def before_merging(self, dq_MLD: torch.Tensor, dk_MLD: torch.Tensor, dtotal_M1D: torch.Tensor) -> torch.Tensor:
        """Turn gradients after `merge` into those before it, in place; return those of the decays, [2M, 1, D]."""
        dleft_M1D = (dq_MLD * self.q_MLD).sum(1, keepdim=True).addcmul_(dtotal_M1D, self.right_M1D)
        dright_M1D = (dk_MLD * self.k_MLD).sum(1, keepdim=True).addcmul_(dtotal_M1D, self.left_M1D)
        dq_MLD.mul_(self.left_M1D)
        dk_MLD.mul_(self.right_M1D)
        return torch.cat([dleft_M1D, dright_M1D], dim=1).view(-1, 1, dq_MLD.shape[2])


def _levels(q_ZCD: torch.Tensor, k_ZCD: torch.Tensor, decay_ZCD: torch.Tensor) -> Iterator[_Level]:
    """Yield each size of halves, from one position on; merge them, in place, when the next is asked for."""
    total_M1D, half = decay_ZCD.reshape(-1, 1, decay_ZCD.shape[2]), 1
    while half < decay_ZCD.shape[1]:
        left_M1D, right_M1D = _halves(total_M1D, 1)
        level = _Level(half, _halves(q_ZCD, half)[1], _halves(k_ZCD, half)[0], left_M1D, right_M1D)
        yield level
        total_M1D, half = level.merge(), 2 * half


def _halves(x_ZCD: torch.Tensor, half: int) -> tuple[torch.Tensor, torch.Tensor]:
    """View the left and the right halves of blocks of twice `half` positions: two of [M, L, D]."""
    left_MLD, right_MLD = x_ZCD.view(-1, 2, half, x_ZCD.shape[2]).unbind(1)
    return left_MLD, right_MLD


def _add_product(sum_MLE: torch.Tensor, weights_MLL: torch.Tensor, x_MLE: torch.Tensor) -> None:
    """Add the product of weights and x, in place."""
    if x_MLE.shape[1] > _SMALL:
        sum_MLE.baddbmm_(weights_MLL, x_MLE)
        return
    for j in range(x_MLE.shape[1]):
        sum_MLE.addcmul_(weights_MLL[:, :, j : j + 1], x_MLE[:, j : j + 1])
