"""Gated DeltaNet: the delta rule on a state that decays as far as the token says.

Yang et al., ICLR 2025, "Gated Delta Networks", eq. 10:

    S_t = a_t S_{t-1} (I - b_t k_t k_t^T) + b_t v_t k_t^T,   o_t = S_t q_t              S [D, D]
    a_t = exp(-A softplus(x_t . w_a + c)): Mamba-2's gate, A and c learned for each head
    b_t = sigmoid(x_t . w_b)
    q, k = SiLU(.) / |SiLU(.)| (section 3.4)

Computed in chunks of 64 with a state between them: the WY form with decays (section 3.3), a triangular solve; in
decoding as the recurrence. Queries are the last T positions of the keys. Sums are held in float32 or wider. Time:
O((T + S) D^2); memory: O((T + S) D). Causal only, and no window: a state cannot forget a key when it leaves one.

Here there are no tokens x_t: each key/value head makes a_t and b_t from its own key k_t, with w_a and w_b of its own,
drawn as torch.nn.Linear does; A is drawn from (0, 16) and softplus(c) log-uniformly from (0.001, 0.1), which is the
authors' layer (flash-linear-attention). As there each head's output is divided by its root mean square times a learned
scale, and 1e-6 added to squared lengths. Left out as parts of the projections or for want of tokens: short
convolutions, the SiLU of the values, the gate on the output. The authors' kernel divides q by sqrt(D) besides, which
the norm cancels; the paper does not, nor does this.
"""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension

import math

import torch
from torch.nn.functional import softplus

from attnbench import Case
from attnbench_variants.blocks.dtypes import wide
from attnbench_variants.blocks.weights import generator, learned, undecayed
from attnbench_variants.linear.delta_rule import DeltaRule, weights_of_a_key
from attnbench_variants.linear.recurrence import operations
from attnbench_variants.linear.scan import Writes

_STRONGEST = 16.0
_STEPS = 0.001, 0.1


class GatedDeltaNet(DeltaRule):
    """Gated DeltaNet (Yang et al., ICLR 2025, eq. 10): S_t = a_t S_{t-1} (I - b_t k_t k_t^T) + b_t v_t k_t^T."""

    def __init__(self, case: Case, options: DeltaRule.Options) -> None:
        draws = generator(case)
        super().__init__(case, options, draws)
        self.gate_weight = weights_of_a_key(case, draws)
        strengths_G11 = _STRONGEST * (1 - torch.rand(case.shape.kv_heads, 1, 1, generator=draws, dtype=torch.float64))
        low, high = (math.log(step) for step in _STEPS)
        steps_G11 = torch.empty_like(strengths_G11).uniform_(low, high, generator=draws).exp()
        self.log_strength = undecayed(learned(case, strengths_G11.log()))
        # softplus of the bias is the step
        self.gate_bias = undecayed(learned(case, steps_G11 + torch.log(-torch.expm1(-steps_G11))))

    def gates(self, k_BGSD: torch.Tensor) -> torch.Tensor:
        """Return log a_t, at most 0, in float32 or wider: [B, G, S, 1]."""
        log_strength_G11, weight_GD1, bias_G11 = (
            wide(x) for x in (self.log_strength, self.gate_weight, self.gate_bias)
        )
        return -log_strength_G11.exp() * softplus(wide(k_BGSD) @ weight_GD1 + bias_G11)

    def writes(self, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> Writes:
        """Return the keys' features, values, gates and strengths."""
        made = self.features(k_BGSD), v_BGSD, self.gates(k_BGSD), self.strengths(k_BGSD)
        return Writes(*(x.flatten(0, 1) for x in made))

    @staticmethod
    def flops(case: Case) -> int:
        """Count the products and solves that are executed: gates, WY form, pairs, states. Decoding: a step's."""
        return operations(case, delta=True, of_a_key=4 * case.shape.head_dim)
