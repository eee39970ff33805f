"""Linear attention: the softmax's kernel replaced by a product of features, so that sums over keys can be shared."""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension, X = B * H

import torch
from torch.nn.functional import relu

from attnbench import Case, Support
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
        out_XTD = attend_by_features(q_XTD, k_XSD, v_XSD, features=elu_plus_one, causal=self._causal)
        return out_XTD.view(q_BHTD.shape)

    @staticmethod
    def flops(case: Case) -> int:
        """Count a forward call's matrix products, multiply-add = 2: sums over keys, their use, and causal chunks."""
        shape, dim = case.shape, case.shape.head_dim
        across = (shape.seq_q + shape.seq_k) * dim * (dim + 1)
        if not case.mask.causal:
            return 2 * shape.batch * shape.heads * across
        is_streamed = case.device == "cpu" and case.passes in ("forward", "decode")
        chunk = STREAMED_CHUNK if is_streamed else BATCHED_CHUNK
        chunks, rest = divmod(shape.seq_q, chunk)
        within = (chunks * chunk**2 + rest**2) * (2 * dim + 1)
        return 2 * shape.batch * shape.heads * (across + within)


def elu_plus_one(x: torch.Tensor) -> torch.Tensor:
    """Map x to elu(x) + 1, in float32 or wider, and above zero where elu(x) would round to -1."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x.clamp(max=0).exp() + relu(x)
