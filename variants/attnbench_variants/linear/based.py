"""Based: linear attention whose features are the exponential's Taylor series of second order on short projections."""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension, P projected dimension

from typing import Annotated, ClassVar

import msgspec
import torch
from msgspec import Meta

from attnbench import Case, Support, Tune
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.counting import executed
from attnbench_variants.blocks.feature_attention import FeatureAttention
from attnbench_variants.blocks.feature_counts import count_by_features
from attnbench_variants.blocks.feature_maps import Taylor
from attnbench_variants.blocks.feature_sums import Sums
from attnbench_variants.blocks.fused import TORCH


class Based(torch.nn.Module):
    """Based's linear attention (Arora et al. 2024, section 4.1): weights 1 + s + s^2 / 2, s = (A q) . (B k) / sqrt(P).

    They are above zero (at least one half) and are normalised by their sum. A and B are learned, P = 16 rows for each
    head. Sums over keys hold 1 + P + P (P + 1) / 2 features: time O((T + S) D P^2), memory O((T + S) P^2). Causal in
    chunks; in decoding the sums are the state. The paper's model has layers of this and layers of attention in a window
    of 64 keys in turn; those are a mechanism of their own, and a layer of a model one or the other.

    Where the paper leaves a choice, or the authors' code differs:

    - In the paper A and B are the layer's query and key projections. Here they come after those of head dimension D,
      one pair for each query and key/value head, and start as torch's linear layer does: uniform in +- 1 / sqrt(D).
    - Of the P^2 products of two numbers each pair is kept once (153 features for 273): the same weights.
    - The authors divide by the sum and 1e-12; here by the sum.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """What recall costs: the state has about P^2 / 2 rows."""

        feature_dim: Annotated[int, Meta(ge=1, description="dimension P that queries and keys are projected to")] = 16

    tunes: ClassVar = {"feature_dim": Tune("4..32", monotone=False)}
    supports = Support(
        window="a sum over all earlier keys cannot forget those that leave a window", grouped=True, growth=1
    )
    backend = f"torch-matmul {TORCH}"

    def __init__(self, case: Case, options: Options) -> None:
        super().__init__()
        dim, size = case.shape.head_dim, options.feature_dim
        generator = torch.Generator().manual_seed(case.seed)
        self.project_queries = _projection((case.shape.heads, dim, size), case, generator)
        self.project_keys = _projection((case.shape.kv_heads, dim, size), case, generator)
        self._scale = size**-0.25
        self._attention = FeatureAttention(Taylor(size, device=case.device), causal=case.mask.causal)

    def forward(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        q_BHTP, k_BGSP = self._project(self.project_queries, q_BHTD), self._project(self.project_keys, k_BGSD)
        return self._attention(q_BHTP, k_BGSP, v_BGSD)

    @torch.no_grad()
    def prefill(self, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> Sums:
        """Sum the keys' features, with their values and alone, for each key/value head."""
        return self._attention.prefill(self._project(self.project_keys, k_BGSD), v_BGSD)

    @torch.no_grad()
    def step(
        self, q_BH1D: torch.Tensor, k_BG1D: torch.Tensor, v_BG1D: torch.Tensor, sums: Sums
    ) -> tuple[torch.Tensor, Sums]:
        """Add a key and its value to the sums, and read them with the query: out_BH1D and the new sums."""
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


def _projection(size: tuple[int, ...], case: Case, generator: torch.Generator) -> torch.nn.Parameter:
    """Draw projections on the CPU in float64, so that every device and dtype has the same ones within rounding."""
    bound = size[-2] ** -0.5
    weights = torch.empty(size, dtype=torch.float64).uniform_(-bound, bound, generator=generator)
    return torch.nn.Parameter(weights.to(getattr(torch, case.dtype)).to(case.device))
