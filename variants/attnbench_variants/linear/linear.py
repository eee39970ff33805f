"""Linear attention: the softmax's kernel replaced by a product of features, so that sums over keys can be shared."""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension, X = B * H

import torch
from torch.nn.functional import pad, relu

from attnbench import Case, Support
from attnbench_variants.blocks.causal_product import BATCHED_CHUNK, RUNNING_CHUNK, causal_product
from attnbench_variants.blocks.fused import TORCH
from attnbench_variants.blocks.heads import per_query_head


class Linear:
    """Linear attention with the feature map elu(x) + 1 (Katharopoulos et al. 2020, eqs. 4 to 9).

    out_t = sum_s (f(q_t) . f(k_s)) v_s / sum_s f(q_t) . f(k_s), over all keys or, causally, those up to t; queries are
    the last T positions of the keys. Sums are held in float32 or wider. Time and memory: O((T + S) D^2), O((T + S) D).
    """

    supports = Support(
        window="a sum over all earlier keys cannot forget those that leave a window",
        grouped=True,
    )
    backend = f"torch-matmul {TORCH}"

    def __init__(self, case: Case) -> None:
        self._causal = case.mask.causal

    def __call__(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        heads = q_BHTD.shape[1]
        q_XTD, k_XSD, v_XSD = (
            per_query_head(x, heads).flatten(0, 1).to(torch.promote_types(x.dtype, torch.float32))
            for x in (q_BHTD, k_BGSD, v_BGSD)
        )
        attend = _causal if self._causal else _full
        return attend(_features(q_XTD), _features(k_XSD), v_XSD).to(q_BHTD.dtype).view(q_BHTD.shape)

    @staticmethod
    def flops(case: Case) -> int:
        """Count a forward call's matrix products, multiply-add = 2: sums over keys, their use, and causal chunks."""
        shape, dim = case.shape, case.shape.head_dim
        if not case.mask.causal:
            return 2 * shape.batch * shape.heads * dim * (shape.seq_k * dim + shape.seq_q * (dim + 1))
        in_place = case.device == "cpu" and case.passes in ("forward", "decode")
        chunk = RUNNING_CHUNK if in_place else BATCHED_CHUNK
        chunks, rest = divmod(shape.seq_q, chunk)
        within = (chunks * chunk**2 + rest**2) * (2 * dim + 1)
        across = (shape.seq_q + shape.seq_k) * dim * (dim + 1)
        return 2 * shape.batch * shape.heads * (within + across)


def _features(x: torch.Tensor) -> torch.Tensor:
    """Map x to elu(x) + 1, written so that it stays above zero where elu(x) rounds to -1."""
    return x.clamp(max=0).exp() + relu(x)


def _full(q_XTD: torch.Tensor, k_XSD: torch.Tensor, v_XSD: torch.Tensor) -> torch.Tensor:
    weight_XT1 = q_XTD @ k_XSD.sum(dim=1)[:, :, None]
    return q_XTD @ (k_XSD.transpose(1, 2) @ v_XSD) / weight_XT1


def _causal(q_XTD: torch.Tensor, k_XSD: torch.Tensor, v_XSD: torch.Tensor) -> torch.Tensor:
    """Let a column of ones ride along with the values: its sum is the weight to divide by."""
    y_XTE = causal_product(q_XTD, k_XSD, pad(v_XSD, (0, 1), value=1.0))
    return y_XTE[..., :-1] / y_XTE[..., -1:]
