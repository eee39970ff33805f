"""Relative position representations: learned vectors are added to keys and values, by their distance from the query.

Shaw, Uszkoreit, Vaswani 2018, "Self-Attention with Relative Position Representations", eqs. 3 to 5:

    out_i = sum_j softmax_j(q_i . (k_j + a_K[j - i]) / sqrt(D)) (v_j + a_V[j - i])          a_K, a_V [R, D], learned

with j - i clipped to +- `clip`, so R = 2 clip + 1. The vectors start as in the authors' code (tensor2tensor): Xavier
uniform, drawn from the case's seed. Each head has its own, as in the paper's base model; sharing them among layers is a
model's affair. The query is multiplied by all relative positions at once (section 3.3); beyond `clip` all keys have the
same vector, so that a fused kernel attends to them. Queries are the last T positions; a window hides what it hides from
exact attention. Time: O(T S D); memory: O(T + S).
"""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension, R relative positions

from typing import Annotated

import msgspec
import torch
from msgspec import Meta

from attnbench import Case, Support
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.flop_counts import executed_pairs
from attnbench_variants.blocks.grouped_heads import per_query_head
from attnbench_variants.blocks.lse_kernels import kernel_for
from attnbench_variants.blocks.masks import require_queries_last
from attnbench_variants.blocks.reach import all_keys
from attnbench_variants.blocks.weights import generator, learned, uniform
from attnbench_variants.position.relative_vectors import Relations, Vectors, attend_to_near_and_far


class Shaw(torch.nn.Module):
    """Relative position representations (Shaw, Uszkoreit, Vaswani 2018, sections 3.1 to 3.3, equations 3 to 5)."""

    class Options(BaseOptions, frozen=True, kw_only=True):
        """The paper's base model (its big model: clip=8)."""

        clip: Annotated[int, Meta(ge=1, description="distance from which on all keys have the same vector")] = 16
        shared: Annotated[bool, Meta(description="one pair of vectors for all heads (section 3.3)")] = False

    supports = Support(window=True, grouped=True, growth=2, positions=True)
    reach = staticmethod(all_keys)

    def __init__(self, case: Case, options: Options) -> None:
        super().__init__()
        require_queries_last(case)
        self._relations = _relations(case, options)
        self._heads = case.shape.heads
        relative, dim, draws = 2 * options.clip + 1, case.shape.head_dim, generator(case)
        size, bound = (1 if options.shared else self._heads, relative, dim), (6 / (relative + dim)) ** 0.5
        self.keys_HRD, self.values_HRD = (learned(case, uniform(*size, bound=bound, generator=draws)) for _ in range(2))
        self.backend = kernel_for(torch.device(case.device)).name

    def forward(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        k_BHSD, v_BHSD = (per_query_head(x, self._heads) for x in (k_BGSD, v_BGSD))
        vectors = Vectors(*(x.to(q_BHTD.dtype).expand(self._heads, -1, -1) for x in (self.keys_HRD, self.values_HRD)))
        return attend_to_near_and_far(q_BHTD, k_BHSD, v_BHSD, vectors=vectors, relations=self._relations)

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: all keys that a block of queries is shown, and the vectors."""
        options = msgspec.convert(case.options, Shaw.Options)
        pairs = case.shape.seq_q * (2 * options.clip + 1)
        for span in _relations(case, options).spans():
            shown = sum(keys.stop - keys.start for keys in (span.near, *span.far))
            pairs += (span.rows.stop - span.rows.start) * shown
        return executed_pairs(pairs, case)


def _relations(case: Case, options: Shaw.Options) -> Relations:
    shape = case.shape
    return Relations(shape.seq_q, shape.seq_k, options.clip, case.mask, shape.head_dim**-0.5)
