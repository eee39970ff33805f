"""Linear attention: the softmax's kernel replaced by a product of features, so that sums over keys can be shared."""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension, F features, E = D + 1 (values and a one),
# X = B * H, Y = B * G

from typing import Any

import torch

from attnbench import Case, Support
from attnbench_variants.blocks.counting import executed
from attnbench_variants.blocks.feature_sums import (
    BATCHED_CHUNK,
    STREAMED_CHUNK,
    attend_by_features,
    keys_summed,
    one_further,
)
from attnbench_variants.blocks.fused import TORCH
from attnbench_variants.blocks.heads import per_query_head


class Linear:
    """Linear attention with the feature map elu(x) + 1 (Katharopoulos et al. 2020, eqs. 4 to 12).

    out_t = sum_s (f(q_t) . f(k_s)) v_s / sum_s f(q_t) . f(k_s), over all keys or, causally, those up to t; queries are
    the last T positions of the keys. Sums are held in float32 or wider. Time and memory: O((T + S) D^2), O((T + S) D).
    In decoding the sums over the keys so far are the state (section 3.4): O(D^2) a token, whatever came before it.
    """

    supports = Support(
        window="a sum over all earlier keys cannot forget those that leave a window", grouped=True, growth=1
    )
    backend = f"torch-matmul {TORCH}"

    def __init__(self, case: Case) -> None:
        self._causal = case.mask.causal

    def __call__(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        heads = q_BHTD.shape[1]
        q_XTD, k_XSD, v_XSD = (per_query_head(x, heads).flatten(0, 1) for x in (q_BHTD, k_BGSD, v_BGSD))
        out_XTD = attend_by_features(q_XTD, k_XSD, v_XSD, features=_features, causal=self._causal)
        return out_XTD.view(q_BHTD.shape)

    def prefill(self, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Sum the keys' features, with their values and alone: state_YFE, for each key/value head (eqs. 16 to 19)."""
        return keys_summed(k_BGSD.flatten(0, 1), v_BGSD.flatten(0, 1), features=_features)

    def step(
        self, q_BH1D: torch.Tensor, k_BG1D: torch.Tensor, v_BG1D: torch.Tensor, state_YFE: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add a key and its value to the sums, and read them with the query: out_BH1D and the new sums (eq. 20)."""
        q_YTD = q_BH1D.reshape(len(state_YFE), -1, q_BH1D.shape[-1])  # the heads that a key/value head serves
        k_Y1D, v_Y1D = k_BG1D.flatten(0, 1), v_BG1D.flatten(0, 1)
        out_YTD, after_YFE = one_further(q_YTD, k_Y1D, v_Y1D, state_YFE, features=_features)
        return out_YTD.view(q_BH1D.shape), after_YFE

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: sums over keys, their use, and the pairs of causal chunks.

        In decoding: the last key added to the sums, and their use.
        """
        shape, dim = case.shape, case.shape.head_dim
        if case.passes == "decode":
            return 2 * shape.batch * (shape.kv_heads + shape.heads) * dim * (dim + 1)
        across = (shape.seq_q + shape.seq_k) * dim * (dim + 1)
        if not case.mask.causal:
            return executed(2 * shape.batch * shape.heads * across, case)
        is_streamed = case.device == "cpu" and case.passes == "forward"
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
