"""Exact attention but for learned vectors added to keys and values, by their position relative to the query."""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension, R relative positions

from typing import Annotated

import msgspec
import torch
from msgspec import Meta

from attnbench import Case, Support, Unsupported
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.flop_counts import executed
from attnbench_variants.blocks.grouped_heads import per_query_head
from attnbench_variants.blocks.lse_kernels import kernel_for
from attnbench_variants.position.relative_vectors import Relations, Vectors, attend_to_near_and_far


class Shaw(torch.nn.Module):
    """Relative position representations (Shaw, Uszkoreit, Vaswani 2018, sections 3.1 to 3.3, equations 3 to 5).

    Scores are q_i . (k_j + a_K[j - i]) / sqrt(D) and values v_j + a_V[j - i], j - i clipped to +-`clip`. The vectors
    start as in the authors' code (tensor2tensor): Xavier uniform, drawn from the case's seed. Each head has its own, as
    in the paper's base model; sharing them among layers is a model's affair. The query is multiplied by all relative
    positions at once (section 3.3); beyond `clip` all keys have the same vector, so that a fused kernel attends to
    them. Time: O(T S); memory: O(T + S). Queries are the last T positions; a window hides what exact attention's does.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """The paper's base model (its big model: clip=8)."""

        clip: Annotated[int, Meta(ge=1, description="distance from which on all keys have the same vector")] = 16
        shared: Annotated[bool, Meta(description="one pair of vectors for all heads (section 3.3)")] = False

    supports = Support(window=True, grouped=True, growth=2)

    def __init__(self, case: Case, options: Options) -> None:
        super().__init__()
        shape = case.shape
        if shape.seq_q > shape.seq_k:
            raise Unsupported("its queries are the last positions of the keys: there cannot be more of them than keys")
        self._relations = _relations(case, options)
        self._heads = shape.heads
        generator = torch.Generator().manual_seed(case.seed)
        size = (1 if options.shared else shape.heads, 2 * options.clip + 1, shape.head_dim)
        self.keys_HRD, self.values_HRD = (_vectors(size, case, generator) for _ in range(2))
        self.backend = kernel_for(torch.device(case.device)).name

    def forward(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        k_BHSD, v_BHSD = (per_query_head(x, self._heads) for x in (k_BGSD, v_BGSD))
        vectors = Vectors(*(x.to(q_BHTD.dtype).expand(self._heads, -1, -1) for x in (self.keys_HRD, self.values_HRD)))
        return attend_to_near_and_far(q_BHTD, k_BHSD, v_BHSD, vectors=vectors, relations=self._relations)

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: all keys that a block of queries is shown, and the vectors."""
        shape, options = case.shape, msgspec.convert(case.options, Shaw.Options)
        pairs = shape.seq_q * (2 * options.clip + 1)
        for span in _relations(case, options).spans():
            shown = sum(keys.stop - keys.start for keys in (span.near, *span.far))
            pairs += (span.rows.stop - span.rows.start) * shown
        return executed(4 * shape.batch * shape.heads * pairs * shape.head_dim, case, scores="recomputed")


def _relations(case: Case, options: Shaw.Options) -> Relations:
    shape = case.shape
    return Relations(shape.seq_q, shape.seq_k, options.clip, case.mask, shape.head_dim**-0.5)


def _vectors(size: tuple[int, int, int], case: Case, generator: torch.Generator) -> torch.nn.Parameter:
    bound = (6 / (size[1] + size[2])) ** 0.5
    vectors = torch.empty(size, dtype=torch.float64).uniform_(-bound, bound, generator=generator)
    return torch.nn.Parameter(vectors.to(case.device, getattr(torch, case.dtype)))
