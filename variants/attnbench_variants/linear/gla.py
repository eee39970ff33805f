"""Gated linear attention (GLA): a state of which each feature of the keys decays by itself, as far as the token says.

Yang et al. 2023, "Gated Linear Attention Transformers with Hardware-Efficient Training", section 4:

    S_t = diag(a_t) S_{t-1} + k_t^T v_t,   o_t = q_t S_t / sqrt(D)               S [D, D], a_t [D]
    a_t = sigmoid(x_t W_1 W_2 + b)^(1 / tau), of low rank: W_1 [D, R], W_2 [R, D] (section 4.4)

Computed in chunks of 64 with a state between them (section 4.2), within which nothing is ever divided by a gate
(decayed_pairs.py, in place of section 4.3); in decoding as the recurrence. Queries are the last T positions of the
keys. Sums and gates are held in float32 or wider. Time: O((T + S) D^2); memory: O((T + S) D). Causal only, and no
window: a state cannot forget a key when it leaves one.

Here there are no tokens x_t: each key/value head makes its gates from its own key k_t, with W_1, W_2 and b of its own,
drawn as torch.nn.Linear does, which is the authors' layer (flash-linear-attention). As there q is divided by sqrt(D),
and each head's output by its root mean square times a learned scale, where the paper writes LayerNorm; the gate
swish(x_t W_r + b_r) on the output needs the tokens and is left out.
"""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension, R rank

import math
from typing import Annotated

import msgspec
import torch
from msgspec import Meta
from torch.nn.functional import logsigmoid

from attnbench import Case
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.dtypes import wide
from attnbench_variants.blocks.weights import generator, learned, undecayed, uniform
from attnbench_variants.linear.recurrence import Norm, Recurrent, operations
from attnbench_variants.linear.scan import Writes


class GatedLinearAttention(Recurrent):
    """Gated linear attention, GLA (Yang et al. 2023, section 4): S_t = diag(a_t) S_{t-1} + k_t^T v_t, o_t = q_t S_t."""

    class Options(BaseOptions, frozen=True, kw_only=True):
        """The gates, with the paper's sizes, and the norm."""

        rank: Annotated[int, Meta(ge=1, description="columns of W_1, through which gates are made")] = 16
        temperature: Annotated[float, Meta(gt=0, description="tau: the larger, the slower the state decays")] = 16.0
        norm: Norm = "head"

    def __init__(self, case: Case, options: Options) -> None:
        super().__init__(case, normed=options.norm == "head")
        heads, dim, draws = case.shape.kv_heads, case.shape.head_dim, generator(case)
        self._temperature = options.temperature
        narrow, wider = dim**-0.5, options.rank**-0.5
        self.gate_down = learned(case, uniform(heads, dim, options.rank, bound=narrow, generator=draws))
        self.gate_up = learned(case, uniform(heads, options.rank, dim, bound=wider, generator=draws))
        self.gate_bias = undecayed(learned(case, uniform(heads, 1, dim, bound=wider, generator=draws)))

    def gates(self, k_BGSD: torch.Tensor) -> torch.Tensor:
        """Return log a_t, at most 0, in float32 or wider: [B, G, S, D]."""
        down_GDR, up_GRD, bias_G1D = (wide(x) for x in (self.gate_down, self.gate_up, self.gate_bias))
        return logsigmoid(wide(k_BGSD) @ down_GDR @ up_GRD + bias_G1D).div(self._temperature)

    def queries(self, q_BHTD: torch.Tensor) -> torch.Tensor:
        """Return q / sqrt(D)."""
        return wide(q_BHTD) / math.sqrt(q_BHTD.shape[3])

    def writes(self, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> Writes:
        """Return keys, values and gates."""
        return Writes(*(x.flatten(0, 1) for x in (k_BGSD, v_BGSD, self.gates(k_BGSD))))

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: gates, pairs by halves of chunks, states. Decoding: a step's."""
        rank = msgspec.convert(case.options, GatedLinearAttention.Options).rank
        return operations(case, decay_per_feature=True, of_a_key=4 * case.shape.head_dim * rank)
