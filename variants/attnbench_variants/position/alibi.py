"""ALiBi: exact attention but for a penalty that grows with a key's distance, at a slope of each head's own.

Press, Smith, Lewis 2022, "Train Short, Test Long: Attention with Linear Biases", section 3:

    out_i = sum_j softmax_j(q_i . k_j / sqrt(D) - m |i - j|) v_j,   m = 2^(-8 h / H) in head h of H, h from 1

Where H is no power of two, the slopes are those of the next smaller power, and then every other one of twice as many
heads, as in the authors' code. They are not learned. The paper is causal; without causality the penalty is that of the
distance to either side (the symmetric one of several forms in use). The mechanism has no other sense of position: give
the trained model none. Queries are the last T positions of the keys; a window hides what it hides from exact attention.
Time: O(T S D); memory: O(T + S).
"""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension, L distances of a key from a query

import math
from typing import Annotated

import torch
from msgspec import Meta

from attnbench import Case, Support
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.dtypes import wide_dtype
from attnbench_variants.blocks.flop_counts import executed_pairs
from attnbench_variants.blocks.reach import all_keys
from attnbench_variants.position.distance_bias import BiasedAttention, shown_pairs


class Alibi:
    """Attention with linear biases: softmax(q k^T / sqrt(D) - m |i - j|) v (Press, Smith, Lewis 2022, section 3)."""

    class Options(BaseOptions, frozen=True, kw_only=True):
        """The paper's slopes."""

        slope_scale: Annotated[float, Meta(ge=0, description="what all slopes are multiplied by; 0: no bias")] = 1.0

    supports = Support(window=True, grouped=True, growth=2, positions=True)
    reach = staticmethod(all_keys)

    def __init__(self, case: Case, options: Options) -> None:
        self._attention = BiasedAttention(case, scale=case.shape.head_dim**-0.5)
        self.backend = self._attention.name
        distance_L = self._attention.distance_L
        slope_H = torch.tensor(slopes(case.shape.heads), dtype=torch.float64, device="cpu") * options.slope_scale
        dtype = wide_dtype(getattr(torch, case.dtype))
        self._bias_HL = -slope_H.to(distance_L.device, dtype)[:, None] * distance_L.abs()

    def __call__(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        out_of_reach_HL = self._bias_HL < -_reach(q_BHTD, k_BGSD)
        return self._attention(q_BHTD, k_BGSD, v_BGSD, self._bias_HL.masked_fill(out_of_reach_HL, float("-inf")))

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: all keys that a block of queries is shown."""
        return executed_pairs(shown_pairs(case), case)


@torch.no_grad()
def _reach(q_BHTD: torch.Tensor, k_BGSD: torch.Tensor) -> torch.Tensor:
    """Return the penalty beyond which no score can make up for it: such a key's weight is lost in rounding.

    It is the largest difference of two scores that the lengths of queries and keys allow, and twenty more than the
    dtype resolves. Left in, such weights are denormal numbers, with which a CPU's products take three times as long.
    """
    dtype = wide_dtype(q_BHTD.dtype)
    longest_q, longest_k = (torch.linalg.vector_norm(x, dim=-1, dtype=dtype).amax() for x in (q_BHTD, k_BGSD))
    highest: torch.Tensor = longest_q * longest_k * q_BHTD.shape[-1] ** -0.5
    return 2 * highest + 20 - math.log(torch.finfo(dtype).eps)


def slopes(heads: int) -> list[float]:
    """Return each head's slope: a geometric sequence that ends at 2^-8, filled up from a finer one."""
    power = 2 ** (heads.bit_length() - 1)
    own = [2 ** (-8 * h / power) for h in range(1, power + 1)]
    finer = [2 ** (-8 * h / (2 * power)) for h in range(1, 2 * power + 1, 2)]
    return own + finer[: heads - power]
