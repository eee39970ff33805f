"""Based: linear attention whose features are the exponential's Taylor series of second order on short projections.

Arora et al. 2024, "Simple linear attention language models balance the recall-throughput tradeoff", section 4.1:

    weight(t, s) = 1 + x + x^2 / 2,   x = (A q_t) . (B k_s) / sqrt(P)      A, B [P, D], learned; x [1]
                 = f(A q_t) . f(B k_s),   f [1 + P + P (P + 1) / 2]

normalised to sum to one; a weight is above zero (at least one half). A head has its own A and B, P = 16 by default.
Time: O((T + S) D P^2); memory: O((T + S) P^2). Causal in chunks; in decoding the sums are the state, of about P^2 / 2
rows. There is no window: a sum cannot forget a key. The paper's model has layers of this and layers of attention in a
window of 64 keys in turn; those are a mechanism of their own, and a layer of a model one or the other.

Where the paper leaves a choice, or the authors' code differs:

- In the paper A and B are the layer's query and key projections. Here they come after those of head dimension D, one
  pair for each query and key/value head, and start as torch's linear layer does: uniform in +- 1 / sqrt(D).
- Of the P^2 products of two numbers each pair is kept once (153 features for 273): the same weights.
- The authors divide by the sum and 1e-12; here by the sum.
"""
# B batch, H heads, G key/value heads, X sequences, T queries, S keys, D head dimension, P projected dimension,
# F features

from typing import Annotated, ClassVar

import msgspec
import torch
from msgspec import Meta

from attnbench import Case, Support, Tune
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.dtypes import wide
from attnbench_variants.blocks.flop_counts import executed
from attnbench_variants.blocks.fused_kernels import TORCH
from attnbench_variants.blocks.reach import all_keys
from attnbench_variants.blocks.weights import generator, learned, uniform
from attnbench_variants.linear.feature_attention import FeatureAttention, FeatureMap, Sums, count_by_features


class Taylor(FeatureMap):
    """The features of 1 + x + x^2 / 2 for x = q . k.

    Of x^2 / 2 = sum_ij q_i q_j k_i k_j / 2 each pair i < j is kept once, with the weight 1: F = 1 + P + P (P + 1) / 2.
    """

    def __init__(self, dim: int, *, device: str) -> None:
        # With [1, x] in place of x, all features are products of two rows; the squares take one scaled by 2^-1/2.
        one, other = torch.triu_indices(dim + 1, dim + 1)
        is_square = (one == other) & (one > 0)
        self._rows = tuple(rows.to(device) for rows in (one, torch.where(is_square, other + dim, other)))

    def keys(self, x_XTP: torch.Tensor, first: int) -> torch.Tensor:
        """Multiply pairs; laid out features first, so that a product of two rows is a pass over contiguous numbers."""
        del first
        x_XPT = wide(x_XTP).mT
        rows_XRT = torch.cat([torch.ones_like(x_XPT[..., :1, :]), x_XPT, x_XPT * 2**-0.5], dim=-2)
        one_F, other_F = self._rows
        return (rows_XRT.index_select(-2, one_F) * rows_XRT.index_select(-2, other_F)).mT


class Based(torch.nn.Module):
    """Based's linear attention (Arora et al. 2024, section 4.1): weights 1 + x + x^2 / 2, x = A q . B k / sqrt(P)."""

    class Options(BaseOptions, frozen=True, kw_only=True):
        """The cost of recall: the state has about P^2 / 2 rows."""

        feature_dim: Annotated[int, Meta(ge=1, description="dimension P that queries and keys are projected to")] = 16

    tunes: ClassVar = {"feature_dim": Tune("4..32", monotone=False)}
    supports = Support(
        window="a sum over all earlier keys cannot forget those that leave a window", grouped=True, growth=1
    )
    reach = staticmethod(all_keys)
    backend = f"torch-matmul {TORCH}"

    def __init__(self, case: Case, options: Options) -> None:
        super().__init__()
        shape, size, draws = case.shape, options.feature_dim, generator(case)
        bound = shape.head_dim**-0.5
        self.project_queries, self.project_keys = (
            learned(case, uniform(heads, shape.head_dim, size, bound=bound, generator=draws))
            for heads in (shape.heads, shape.kv_heads)
        )
        self._scale = size**-0.25
        self._attention = FeatureAttention(Taylor(size, device=case.device), causal=case.mask.causal)

    def forward(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        q_BHTP, k_BGSP = self._project(self.project_queries, q_BHTD), self._project(self.project_keys, k_BGSD)
        return self._attention(q_BHTP, k_BGSP, v_BGSD)

    @torch.no_grad()
    def prefill(self, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> Sums:
        """Return the sums over the keys so far, for each key/value head."""
        return self._attention.prefill(self._project(self.project_keys, k_BGSD), v_BGSD)

    @torch.no_grad()
    def step(
        self, q_BH1D: torch.Tensor, k_BG1D: torch.Tensor, v_BG1D: torch.Tensor, sums: Sums
    ) -> tuple[torch.Tensor, Sums]:
        """Add one key to the sums and read them: out_BH1D and the new sums."""
        q_BH1P, k_BG1P = self._project(self.project_queries, q_BH1D), self._project(self.project_keys, k_BG1D)
        return self._attention.step(q_BH1P, k_BG1P, v_BG1D, sums)

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: projections, and those of linear attention with its features."""
        shape, size = case.shape, msgspec.convert(case.options, Based.Options).feature_dim
        keys = 1 if case.passes == "decode" else shape.seq_k
        rows = shape.heads * shape.seq_q + shape.kv_heads * keys
        project = executed(2 * shape.batch * rows * shape.head_dim * size, case)
        return project + count_by_features(case, features=1 + size + size * (size + 1) // 2)

    def _project(self, weights_HDP: torch.Tensor, x_BHTD: torch.Tensor) -> torch.Tensor:
        # To multiply by what wants a gradient torch copies the keys, even where no gradient will be taken.
        weights_HDP = weights_HDP if torch.is_grad_enabled() else weights_HDP.detach()
        return torch.matmul(x_BHTD, weights_HDP * self._scale)
