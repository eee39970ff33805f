"""Attention that also returns its log-sum-exp, by which parts of one softmax are merged, and its exact gradient.

    s = scale q k^T + mask,   lse = logsumexp(s),   out = exp(s - lse) v                       s [M, W], lse [M]

The gradient of a part of a softmax, given the output and the log-sum-exp L of all parts together:

    w = exp(s - L),   ds = w * (grad v^T - grad . out),   dq = scale ds k,   dk = scale ds^T q,   dv = w^T grad
"""
# X sequences, C chunks (or heads), G chunks of keys, M queries and W keys in a chunk, D head dimension

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from attnbench_variants.blocks.dtypes import wide
from attnbench_variants.blocks.fused_kernels import TORCH, packed
from attnbench_variants.blocks.grouped_heads import per_query_head

# What torch's scaled_dot_product_attention calls, which does not return the log-sum-exp.
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001 - the operator has no public name
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward  # noqa: SLF001 - nor has this


class Chunks(NamedTuple):
    """Queries [X, C, M, D], and the keys and values that they may see [X, G, W, D], each shared by C / G chunks.

    A mask [X or 1, C or 1, M, W], in the dtype of q, is added to the scores; it is finite, as a row hidden by
    infinities has no log-sum-exp. Causally, which takes no mask, query i of a chunk sees keys 0 to i.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None = None
    causal: bool = False
    scale: float = 1.0


class Kernel(NamedTuple):
    """An implementation of attention within chunks; both return the same within rounding.

    `forward(chunks)` returns out_XCMD, contiguous, and lse_XCM. `backward(chunks, grad_XCMD, out_XCMD, lse_XCM)`
    returns the gradients of q, k and v; with the out and lse of all parts together, those of this part.
    """

    name: str
    forward: Callable[[Chunks], tuple[Tensor, Tensor]]
    backward: Callable[[Chunks, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def masked(dtype: torch.dtype) -> float:
    """Return what is added to a hidden score: low enough to leave it no weight, and finite.

    Where every key is hidden the log-sum-exp is then about as low, and no difference of infinities makes a NaN.
    """
    return torch.finfo(dtype).min / 2


def kernel_for(device: torch.device) -> Kernel:
    """Return a device's fastest kernel: torch's fused one returns its log-sum-exp on the CPU only."""
    return FUSED_CPU if device.type == "cpu" else PLAIN


def _fused_forward(chunks: Chunks) -> tuple[Tensor, Tensor]:
    q, k, v, mask, causal, scale = chunks
    out, lse = _flash(*packed(q, k, v), 0.0, causal, attn_mask=mask, scale=scale)
    return out, lse


def _fused_backward(chunks: Chunks, grad: Tensor, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v, mask, causal, scale = chunks
    dq, dk, dv = _flash_backward(*packed(grad, q, k, v, out), lse, 0.0, causal, attn_mask=mask, scale=scale)
    return dq, dk, dv


def _plain_forward(chunks: Chunks) -> tuple[Tensor, Tensor]:
    v = per_query_head(chunks.v, chunks.q.shape[1])
    scores = _scores(chunks)
    lse = scores.logsumexp(dim=-1)
    weights = scores.sub_(lse[..., None]).exp_()
    return weights.to(v.dtype) @ v, lse


def _plain_backward(chunks: Chunks, grad: Tensor, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return gradients_and_scores(chunks, grad, out, lse)[:3]


def gradients_and_scores(
    chunks: Chunks, grad: Tensor, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v as a kernel's backward does, and of the scores [X, C, M, W], so of a mask."""
    dtype, groups = grad.dtype, chunks.k.shape[1]
    k, v = (per_query_head(x, chunks.q.shape[1]) for x in (chunks.k, chunks.v))
    weights = _scores(chunks).sub_(lse[..., None]).exp_()
    dv = weights.to(dtype).mT @ grad
    ds = (grad @ v.mT).to(weights.dtype)
    ds = ds.sub_((grad * out).to(weights.dtype).sum(dim=-1, keepdim=True)).mul_(weights)
    scaled = (ds * chunks.scale).to(dtype)
    return scaled @ k, _per_group(scaled.mT @ chunks.q, groups), _per_group(dv, groups), ds


def _scores(chunks: Chunks) -> Tensor:
    """Return the masked scores, in float32 or wider."""
    k = per_query_head(chunks.k, chunks.q.shape[1])
    scores = wide(chunks.q @ k.mT).mul_(chunks.scale)
    if chunks.mask is not None:
        scores.add_(chunks.mask)
    if chunks.causal:
        hidden_MW = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu_(1)
        scores.masked_fill_(hidden_MW, float("-inf"))
    return scores


def _per_group(grad_XCWD: Tensor, groups: int) -> Tensor:
    """Sum the gradients of the chunks that share their keys: [X, G, W, D]."""
    return grad_XCWD if grad_XCWD.shape[1] == groups else grad_XCWD.unflatten(1, (groups, -1)).sum(dim=2)


FUSED_CPU = Kernel(f"torch-flash {TORCH}", _fused_forward, _fused_backward)
PLAIN = Kernel(f"torch-matmul {TORCH}", _plain_forward, _plain_backward)
