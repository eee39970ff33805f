"""Retention: a state of keys and values that decays by the same factor at each position, another for each head.

Sun et al. 2023, "Retentive Network", eqs. 5 to 8, here with the 1 / sqrt(D) of the authors' code:

    o_t = sum_{s <= t} g^(t - s) (q_t . k_s) v_s / sqrt(D)         g = 1 - 2^(-5 - h) in head h, h from 0 (eq. 8)
        = q_t S_t / sqrt(D),   S_t = g S_{t-1} + k_t^T v_t         S [D, D]: the recurrence (eq. 6), used in decoding

Computed in chunks of 64 with a state between them (eq. 7). Queries are the last T positions of the keys. Sums are held
in float32 or wider. Time: O((T + S) D^2); memory: O((T + S) D). Causal only, and no window: a state cannot forget a key
when it leaves one.

As in the authors' code (torchscale) each head's output is divided by its root mean square, without a learned scale,
where the paper writes GroupNorm. The paper's two other normalisations ("Retention Score Normalization": of the decays'
and of the scores' sums) cancel in it and are left out; so are the gate swish(X W_G) of eq. 8, which needs the tokens,
and the rotation of queries and keys (xPos), which is the model's: positions=rotary. Query heads that share keys decay
each in its own way, so that each has a state.
"""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension, X = B * H

import math

import torch

from attnbench import Case
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.dtypes import wide, wide_dtype
from attnbench_variants.blocks.grouped_heads import per_query_head
from attnbench_variants.linear.recurrence import Norm, Recurrent, operations
from attnbench_variants.linear.scan import Writes


class Retention(Recurrent):
    """Multi-scale retention of RetNet (Sun et al. 2023, eqs. 5 to 8): o_t = sum_{s <= t} g^(t - s) (q_t . k_s) v_s."""

    class Options(BaseOptions, frozen=True, kw_only=True):
        """Decays are fixed by the number of heads."""

        norm: Norm = "head"

    def __init__(self, case: Case, options: Options) -> None:
        super().__init__(case, normed=options.norm == "head", scaled=False)
        exponents_H = -5 - torch.arange(case.shape.heads, dtype=torch.float64)
        dtype = wide_dtype(getattr(torch, case.dtype))
        self._log_decay_H = torch.log1p(-(2.0**exponents_H)).to(dtype).to(case.device)

    def queries(self, q_BHTD: torch.Tensor) -> torch.Tensor:
        """Return q / sqrt(D)."""
        return wide(q_BHTD) / math.sqrt(q_BHTD.shape[3])

    def writes(self, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> Writes:
        """Return keys, values and the decay of each query head."""
        k_XSD, v_XSD = (per_query_head(x, len(self._log_decay_H)).flatten(0, 1) for x in (k_BGSD, v_BGSD))
        return Writes(k_XSD, v_XSD, self._log_decay_H.repeat(len(k_BGSD))[:, None, None])

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: pairs within chunks, and the states. In decoding, a step's."""
        return operations(case, states=case.shape.heads)
