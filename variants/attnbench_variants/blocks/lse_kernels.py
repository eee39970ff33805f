"""Attention that also gives its log-sum-exp, and its exact gradient from one: what rounds of hashing are merged by.

X sequences, C chunks, M queries and W keys in a chunk, D head dimension. Scores are q . k, unscaled, plus the mask.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from attnbench_variants.blocks.fused import TORCH

# What torch's scaled_dot_product_attention calls, which does not give the log-sum-exp.
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001 - the operator has no public name
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward  # noqa: SLF001 - nor has this


class Chunks(NamedTuple):
    """Queries [X, C, M, D], the keys and values that they may see [X, C, W, D], and the mask of their scores if any."""

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None


class Kernel(NamedTuple):
    """A formulation of attention within chunks; both give the same results within rounding.

    `forward(chunks)` gives out_XCMD, contiguous, and lse_XCM. `backward(chunks, grad_XCMD, out_XCMD, lse_XCM)` gives
    the gradients of q, k and v, where weights are exp(score - lse): with the lse of all rounds, one round's part.
    """

    name: str
    forward: Callable[[Chunks], tuple[Tensor, Tensor]]
    backward: Callable[[Chunks, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def kernel_for(device: torch.device) -> Kernel:
    """Choose the fastest kernel that a device has: torch's fused one gives its log-sum-exp on the CPU only."""
    return FUSED_CPU if device.type == "cpu" else PLAIN


def _fused_forward(chunks: Chunks) -> tuple[Tensor, Tensor]:
    q, k, v, mask = chunks
    out, lse = _flash(q, k, v, 0.0, False, attn_mask=mask, scale=1.0)
    return out, lse


def _fused_backward(chunks: Chunks, grad: Tensor, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v, mask = chunks
    dq, dk, dv = _flash_backward(grad, q, k, v, out, lse, 0.0, False, attn_mask=mask, scale=1.0)
    return dq, dk, dv


def _plain_forward(chunks: Chunks) -> tuple[Tensor, Tensor]:
    scores = _scores(chunks)
    lse = scores.logsumexp(dim=-1)
    weights = scores.sub_(lse[..., None]).exp_()
    return weights.to(chunks.v.dtype) @ chunks.v, lse


def _plain_backward(chunks: Chunks, grad: Tensor, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give the gradient of softmax attention: ds = weights * (grad . v - grad . out)."""
    dtype = grad.dtype
    weights = _scores(chunks).sub_(lse[..., None]).exp_()
    dv = weights.to(dtype).mT @ grad
    ds = (grad @ chunks.v.mT).to(weights.dtype)
    ds = ds.sub_((grad * out).to(weights.dtype).sum(dim=-1, keepdim=True)).mul_(weights).to(dtype)
    return ds @ chunks.k, ds.mT @ chunks.q, dv


def _scores(chunks: Chunks) -> Tensor:
    """Give the masked scores, in float32 at least."""
    scores = chunks.q @ chunks.k.mT
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return scores if chunks.mask is None else scores + chunks.mask


FUSED_CPU = Kernel(f"torch-flash {TORCH}", _fused_forward, _fused_backward)
PLAIN = Kernel(f"torch-matmul {TORCH}", _plain_forward, _plain_backward)
