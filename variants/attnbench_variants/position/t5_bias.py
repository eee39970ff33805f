"""T5's relative position bias: a learned number is added to each score, by head and by bucket of distances.

Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", section 2.1:

    out_i = sum_j softmax_j(q_i . k_j / sqrt(D) + b[bucket(j - i)]) v_j           b [H, U], learned

Half of the U buckets hold one distance each, the others a range that grows logarithmically up to `distance`; all beyond
share the last one. Without causality half of them are for later keys (the authors' code, mesh_tensorflow). A window
hides what it hides from exact attention. Time: O(T S D); memory: O(T + S), and a block of scores for the gradient.

Where this differs:

- T5 does not divide scores by sqrt(D), as it draws its queries' projection that much smaller. Here they are divided, so
  that they are as large as in T5 with queries as all mechanisms are given them; scale=false: T5's code.
- The biases are drawn normal with deviation 1 / sqrt(H D), as by T5's public ports, from the case's seed. T5 shares
  them among all layers; that is a model's affair: give its layers the same module.
- T5's cross-attention has no bias. Here fewer queries than keys are the last T positions of the keys.
"""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension, L distances of a key from a query, U buckets

import math
from typing import Annotated

import torch
from msgspec import Meta

from attnbench import Case, Support, Unsupported
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.flop_counts import executed_pairs
from attnbench_variants.blocks.reach import all_keys
from attnbench_variants.blocks.weights import generator, learned, normal, undecayed
from attnbench_variants.position.distance_bias import BiasedAttention, shown_pairs


class T5Bias(torch.nn.Module):
    """T5's relative position bias: softmax(q k^T + b[bucket(j - i)]) v (Raffel et al. 2020, section 2.1)."""

    class Options(BaseOptions, frozen=True, kw_only=True):
        """The paper's sizes."""

        buckets: Annotated[int, Meta(ge=4, description="numbers learned for a head, each for a range of distances")] = (
            32
        )
        distance: Annotated[int, Meta(ge=2, description="distance from which on all share a bucket")] = 128
        scale: Annotated[bool, Meta(description="divide scores by sqrt(head dim); T5's own code does not")] = True

    supports = Support(window=True, grouped=True, growth=2, positions=True)
    reach = staticmethod(all_keys)

    def __init__(self, case: Case, options: Options) -> None:
        super().__init__()
        _check(options, causal=case.mask.causal)
        shape = case.shape
        self._attention = BiasedAttention(case, scale=shape.head_dim**-0.5 if options.scale else 1.0)
        self.backend = self._attention.name
        self._bucket_L = bucket(self._attention.distance_L, options, causal=case.mask.causal)
        deviation = (shape.heads * shape.head_dim) ** -0.5
        bias_HU = normal(shape.heads, options.buckets, deviation=deviation, generator=generator(case))
        self.bias_HU = undecayed(learned(case, bias_HU))

    def forward(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        return self._attention(q_BHTD, k_BGSD, v_BGSD, self.bias_HU[:, self._bucket_L])

    def share(self, first: "T5Bias") -> None:
        """Use the biases of a model's first layer: all layers share one table (section 2.1)."""
        self.bias_HU = first.bias_HU

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: all keys that a block of queries is shown."""
        return executed_pairs(shown_pairs(case), case)


def bucket(distance_L: torch.Tensor, options: T5Bias.Options, *, causal: bool) -> torch.Tensor:
    """Return the bucket of each distance j - i, int64 [L]: near ones have their own, far ones share by logarithm."""
    buckets = options.buckets if causal else options.buckets // 2
    away_L = (-distance_L).clamp(min=0) if causal else distance_L.abs()
    exact = buckets // 2
    growth_L = (away_L.clamp(min=exact).double() / exact).log() / math.log(options.distance / exact)
    far_L = exact + (growth_L * (buckets - exact)).long()
    bucket_L = torch.where(away_L < exact, away_L, far_L.clamp(max=buckets - 1))
    return bucket_L if causal else bucket_L + buckets * (distance_L > 0)


def _check(options: T5Bias.Options, *, causal: bool) -> None:
    exact = options.buckets // (2 if causal else 4)
    if options.distance <= exact:
        raise Unsupported(f"distance must be above the {exact} distances that have a bucket of their own")
