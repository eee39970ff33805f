"""Linear attention: the softmax's kernel replaced by a product of features, so that sums over keys can be shared."""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension, X = B * H

from typing import Any

import torch

from attnbench import Case, Support
from attnbench_variants.blocks.counting import executed
from attnbench_variants.blocks.feature_sums import BATCHED_CHUNK, STREAMED_CHUNK, attend_by_features
from attnbench_variants.blocks.fused import TORCH
from attnbench_variants.blocks.heads import per_query_head


class Linear:
    """Linear attention with the feature map elu(x) + 1 (Katharopoulos et al. 2020, eqs. 4 to 12).

    out_t = sum_s (f(q_t) . f(k_s)) v_s / sum_s f(q_t) . f(k_s), over all keys or, causally, those up to t; queries are
    the last T positions of the keys. Sums are held in float32 or wider. Time and memory: O((T + S) D^2), O((T + S) D).
    """

    supports = Support(window="a sum over all earlier keys cannot forget those that leave a window", grouped=True)
    backend = f"torch-matmul {TORCH}"

    def __init__(self, case: Case) -> None:
        self._causal = case.mask.causal

    def __call__(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        heads = q_BHTD.shape[1]
        q_XTD, k_XSD, v_XSD = (per_query_head(x, heads).flatten(0, 1) for x in (q_BHTD, k_BGSD, v_BGSD))
        out_XTD = attend_by_features(q_XTD, k_XSD, v_XSD, features=_features, causal=self._causal)
        return out_XTD.view(q_BHTD.shape)

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: sums over keys, their use, and the pairs of causal chunks."""
        shape, dim = case.shape, case.shape.head_dim
        across = (shape.seq_q + shape.seq_k) * dim * (dim + 1)
        if not case.mask.causal:
            return executed(2 * shape.batch * shape.heads * across, case)
        is_streamed = case.device == "cpu" and case.passes in ("forward", "decode")
        chunk = STREAMED_CHUNK if is_streamed else BATCHED_CHUNK
        chunks, rest = divmod(shape.seq_q, chunk)
        within = (chunks * chunk**2 + rest**2) * (2 * dim + 1)
        return executed(2 * shape.batch * shape.heads * (across + within), case)


class EluPlusOne(torch.autograd.Function):
    """The feature map elu(x) + 1, written so that it stays above zero where elu(x) rounds to -1.

    Its derivative is itself where x is below zero, and 1 above: one pass, where torch's own of such a form take seven.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        """Give exp(min(x, 0)) + max(x, 0)."""
        y = x.clamp(max=0).exp_().add_(x.clamp(min=0))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        """Give the gradient times min(y, 1)."""
        y: torch.Tensor = ctx.saved_tensors[0]
        return gradient * y.clamp(max=1)


def _features(x: torch.Tensor) -> torch.Tensor:
    """Map x in float32 or wider, in which the sums over it are then held."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    features: torch.Tensor = EluPlusOne.apply(wide)  # type: ignore[no-untyped-call] # torch leaves `apply` untyped
    return features
