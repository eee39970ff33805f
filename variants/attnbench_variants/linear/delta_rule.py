"""The delta rule: queries and keys of unit length, and a strength of each write that is made from its key."""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension

from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch.nn.functional import silu

from attnbench import Case
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.dtypes import wide
from attnbench_variants.blocks.weights import learned, uniform
from attnbench_variants.linear.recurrence import Norm, Recurrent

_EPSILON = 1e-6


class DeltaRule(Recurrent):
    """A state in which a key's value replaces what the state held for that key, as far as its strength says."""

    class Options(BaseOptions, frozen=True, kw_only=True):
        """The paper's ablations: other features, no norm."""

        activation: Annotated[
            Literal["silu", "identity"], Meta(description="what queries and keys pass before they are normalised")
        ] = "silu"
        norm: Norm = "head"

    def __init__(self, case: Case, options: Options, generator: torch.Generator) -> None:
        super().__init__(case, normed=options.norm == "head")
        self._activation = options.activation
        self.write_weight = weights_of_a_key(case, generator)

    def strengths(self, k_BGSD: torch.Tensor) -> torch.Tensor:
        """Return b_t = sigmoid(k_t . w), in float32 or wider: [B, G, S, 1]."""
        return torch.sigmoid(wide(k_BGSD) @ wide(self.write_weight))

    def queries(self, q_BHTD: torch.Tensor) -> torch.Tensor:
        """Return the queries' features, of length 1."""
        return self.features(q_BHTD)

    def features(self, x_BHTD: torch.Tensor) -> torch.Tensor:
        """Return the features of queries or keys, of length 1."""
        return unit_features(x_BHTD, activation=self._activation)


def unit_features(x_BHTD: torch.Tensor, *, activation: Literal["silu", "identity"]) -> torch.Tensor:
    """Return SiLU(x), or x, divided by its length, in float32 or wider."""
    f_BHTD = silu(wide(x_BHTD)) if activation == "silu" else wide(x_BHTD)
    return f_BHTD * (f_BHTD.square().sum(3, keepdim=True) + _EPSILON).rsqrt()


def weights_of_a_key(case: Case, generator: torch.Generator) -> torch.nn.Parameter:
    """Draw, as torch.nn.Linear does, what makes one number of each key of each key/value head: [G, D, 1]."""
    heads, dim = case.shape.kv_heads, case.shape.head_dim
    return learned(case, uniform(heads, dim, 1, bound=dim**-0.5, generator=generator))
