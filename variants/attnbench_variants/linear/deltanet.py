"""DeltaNet: a key's value replaces, in the state, what the state would have answered to that key.

Yang et al. 2024, "Parallelizing Linear Transformers with the Delta Rule over Sequence Length", section 2.2:

    S_t = S_{t-1} (I - b_t k_t k_t^T) + b_t v_t k_t^T,   o_t = S_t q_t           S [D, D]
    b_t = sigmoid(x_t . w): the share of the old answer that is replaced
    q, k = SiLU(.) / |SiLU(.)| (section 3.3)

Computed in chunks of 64 with a state between them: the pseudo-values of a chunk by its WY form, a triangular solve
(section 3.2); in decoding as the recurrence. Queries are the last T positions of the keys. Sums are held in float32 or
wider. Time: O((T + S) D^2); memory: O((T + S) D). Causal only, and no window: a state cannot forget a key when it
leaves one.

Here there are no tokens x_t: each key/value head makes b_t from its own key k_t, with a w of its own, drawn as
torch.nn.Linear does, which is the authors' layer (flash-linear-attention). As there each head's output is divided by
its root mean square times a learned scale, and 1e-6 added to squared lengths. Left out as parts of the projections:
short convolutions, and the SiLU of the values. The authors' kernel divides q by sqrt(D) besides, which the norm
cancels; the paper does not, nor does this.
"""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension, Y = B * G

import torch

from attnbench import Case
from attnbench_variants.blocks.weights import generator
from attnbench_variants.linear.delta_rule import DeltaRule
from attnbench_variants.linear.recurrence import operations
from attnbench_variants.linear.scan import Writes


class DeltaNet(DeltaRule):
    """DeltaNet (Yang et al. 2024): S_t = S_{t-1} (I - b_t k_t k_t^T) + b_t v_t k_t^T, o_t = S_t q_t."""

    def __init__(self, case: Case, options: DeltaRule.Options) -> None:
        super().__init__(case, options, generator(case))

    def writes(self, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> Writes:
        """Return the keys' features, values and strengths; nothing decays."""
        made = self.features(k_BGSD), v_BGSD, self.strengths(k_BGSD)
        k_YSD, v_YSD, beta_YS1 = (x.flatten(0, 1) for x in made)
        return Writes(k_YSD, v_YSD, k_YSD.new_zeros(len(k_YSD), 1, 1), beta_YS1)

    @staticmethod
    def flops(case: Case) -> int:
        """Count the products and solves that are executed: strengths, WY form, pairs, states. Decoding: a step's."""
        return operations(case, delta=True, of_a_key=2 * case.shape.head_dim)
