"""DeltaNet: a key's value replaces, in the state, what the state would have answered to that key."""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension, Y = B * G

from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch.nn.functional import silu

from attnbench import Case, Support
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.recurrent import (
    EARLIER_ONLY,
    NO_WINDOW,
    Recurrent,
    learned,
    operations,
    uniform,
    widened,
)
from attnbench_variants.blocks.scan import Writes

_EPSILON = 1e-6


class DeltaNet(Recurrent):
    """DeltaNet (Yang et al. 2024): S_t = S_{t-1} (I - b_t k_t k_t^T) + b_t v_t k_t^T, o_t = S_t q_t.

    b_t = sigmoid(x_t . w) says how much of the old answer is replaced; q and k are SiLU(.) divided by their length
    (section 3.3). Computed in chunks of 64 with a state between them: the pseudo-values of a chunk by its WY form, a
    triangular solve (section 3.2); in decoding as the recurrence. Queries are the last T positions of the keys. Sums
    are held in float32 or wider. Time and memory: O((T + S) D^2), O((T + S) D).

    Here there are no tokens x_t: each key/value head makes b_t from its own key k_t, with a w of its own, drawn as
    torch.nn.Linear does, which is the authors' layer (flash-linear-attention). As there each head's output is divided
    by its root mean square times a learned scale, and 1e-6 added to squared lengths. Left out as parts of the
    projections: short convolutions, and the SiLU of the values. The authors' kernel divides q by sqrt(D) besides, which
    the norm cancels; the paper does not, nor does this.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """The paper's ablations: other features, no norm."""

        activation: Annotated[
            Literal["silu", "identity"], Meta(description="what queries and keys pass before they are normalised")
        ] = "silu"
        norm: Annotated[
            Literal["head", "none"],
            Meta(description="divide each head's output by its root mean square (head), as the model does, or not"),
        ] = "head"

    supports = Support(full=EARLIER_ONLY, window=NO_WINDOW, grouped=True, growth=1)

    def __init__(self, case: Case, options: Options) -> None:
        super().__init__(case, normed=options.norm == "head")
        generator = torch.Generator().manual_seed(case.seed)
        sizes = case.shape.kv_heads, case.shape.head_dim, 1
        self._activation = options.activation
        self.write_weight = learned(case, uniform(*sizes, bound=case.shape.head_dim**-0.5, generator=generator))

    def strengths(self, k_BGSD: torch.Tensor) -> torch.Tensor:
        """Give b_t, above 0 and below 1, in float32 or wider: [B, G, S, 1]."""
        return torch.sigmoid(widened(k_BGSD) @ widened(self.write_weight))

    def queries(self, q_BHTD: torch.Tensor) -> torch.Tensor:
        """Give the queries' features, of length 1."""
        return unit_features(q_BHTD, activation=self._activation)

    def writes(self, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> Writes:
        """Give the keys' features, values and strengths; nothing decays."""
        k_YSD, v_YSD, beta_YS1 = (
            x.flatten(0, 1)
            for x in (unit_features(k_BGSD, activation=self._activation), v_BGSD, self.strengths(k_BGSD))
        )
        return Writes(k_YSD, v_YSD, k_YSD.new_zeros(len(k_YSD), 1, 1), beta_YS1)

    @staticmethod
    def flops(case: Case) -> int:
        """Count the products and solves that are executed: strengths, WY form, pairs, states. Decoding: a step's."""
        return operations(case, delta=True, of_a_key=2 * case.shape.head_dim)


def unit_features(x_BHTD: torch.Tensor, *, activation: Literal["silu", "identity"]) -> torch.Tensor:
    """Give SiLU(x), or x, divided by its length, in float32 or wider."""
    f_BHTD = silu(widened(x_BHTD)) if activation == "silu" else widened(x_BHTD)
    return f_BHTD * (f_BHTD.square().sum(3, keepdim=True) + _EPSILON).rsqrt()
