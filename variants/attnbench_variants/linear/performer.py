"""Performer: the softmax's kernel exp(q . k) estimated by positive random features, for linear attention.

Choromanski et al. 2020, "Rethinking Attention with Performers" (FAVOR+), lemma 1:

    exp(q . k / sqrt(D)) = E_w [f_w(q) f_w(k)],   f_w(x) = exp(w . x' - |x'|^2 / 2),   x' = x / D^(1/4),  w ~ N(0, I)
    out_t = f(q_t) S / (f(q_t) . z),   S = sum_s f(k_s)^T v_s,   z = sum_s f(k_s)       S [F, D], z [F]

The w are orthogonal within each D of them and as long as independent normal ones (section 2.4), so that the error
against softmax attention falls as F grows. Time: O((T + S) D F); memory: O((T + S) F). Causal in chunks (appendix B.1);
decoding adds a key to the sums. There is no window: a sum cannot forget a key.

Where the paper leaves a choice, or the authors' code differs:

- 256 features, as in the paper's experiments and as its code's default; ports take D ln D (266 where D is 64).
- The w are drawn once from the case's seed, for all heads. (The paper draws them anew every so many training steps.)
  Signs of the orthogonal factor are those that make it uniform.
- Exponents are scaled by the largest of each feature over the keys (causally, up to a run's end) and of each query over
  its features, which cancels. Only a row whose own keys are e^79 below a later one of its run averages them evenly. The
  authors take one maximum over all keys and features and then add 1e-4 to every feature, which does not cancel and is
  left out here.
- `relu` is the paper's generalised attention (Performer-ReLU): max(w . x', 0) + 0.001, the authors' kernel_epsilon.
- `relu-deterministic` is max(x, 0) + 0.001, without random directions and with as many features as x has: the authors'
  generalised attention by default (features_type="deterministic"), as Long Range Arena's code calls it.
"""
# X sequences, T rows (queries or keys), D head dimension, F features, N blocks of D directions

from typing import Annotated, ClassVar, Literal

import msgspec
import torch
from msgspec import Meta
from torch import Generator

from attnbench import Case, Support, Tune
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.dtypes import wide, wide_dtype
from attnbench_variants.blocks.fused_kernels import TORCH
from attnbench_variants.blocks.reach import all_keys
from attnbench_variants.linear.feature_attention import FeatureAttention, FeatureMap, count_by_features


class RandomExponential(FeatureMap):
    """Positive random features; `directions_DF` are the w by D^(1/4)."""

    exponents = True

    def __init__(self, directions_DF: torch.Tensor) -> None:
        self._directions_DF = directions_DF

    def keys(self, x_XTD: torch.Tensor, first: int) -> torch.Tensor:
        """Return w . x' - |x'|^2 / 2."""
        squares_XT1 = wide(x_XTD).square().sum(dim=-1, keepdim=True)
        return torch.sub(self.queries(x_XTD, first), squares_XT1, alpha=0.5 * x_XTD.shape[-1] ** -0.5)

    def queries(self, x_XTD: torch.Tensor, first: int) -> torch.Tensor:
        """Return w . x': a query's square scales all weights of its row alike, and cancels."""
        del first
        return torch.matmul(wide(x_XTD), self._directions_DF)


class RandomRelu(FeatureMap):
    """Random features of the arc-cosine kernel, with the authors' `kernel_epsilon`."""

    def __init__(self, directions_DF: torch.Tensor) -> None:
        self._directions_DF = directions_DF

    def keys(self, x_XTD: torch.Tensor, first: int) -> torch.Tensor:
        """Return max(w . x', 0) + 0.001: without the epsilon a query might have no weight at all."""
        del first
        return torch.matmul(wide(x_XTD), self._directions_DF).relu() + 1e-3


class Relu(FeatureMap):
    """The numbers of a query or key themselves, above zero, with the authors' `kernel_epsilon`."""

    def keys(self, x_XTD: torch.Tensor, first: int) -> torch.Tensor:
        """Return max(x, 0) + 0.001."""
        del first
        return wide(x_XTD).relu() + 1e-3


class Performer(FeatureAttention):
    """FAVOR+ (Choromanski et al. 2020, lemma 1): features exp(w . x - |x|^2 / 2), x = q or k by D^(1/4)."""

    class Options(BaseOptions, frozen=True, kw_only=True):
        """More features cost more and come closer to softmax attention."""

        features: Annotated[int, Meta(ge=1, description="random features; relu-deterministic has none")] = 256
        kernel: Annotated[
            Literal["softmax", "relu", "relu-deterministic"],
            Meta(
                description="what the features estimate: softmax attention, or a kernel of their own (Performer-ReLU), "
                "of random directions or not"
            ),
        ] = "softmax"

    tunes: ClassVar = {"features": Tune("32..4096", monotone=False)}
    supports = Support(
        window="a sum over all earlier keys cannot forget those that leave a window", grouped=True, growth=1
    )
    reach = staticmethod(all_keys)
    backend = f"torch-matmul {TORCH}"

    def __init__(self, case: Case, options: Options) -> None:
        dim, dtype = case.shape.head_dim, wide_dtype(getattr(torch, case.dtype))
        directions_FD = draw_directions(dim, options.features, seed=case.seed)
        self.directions_DF = (directions_FD.T * dim**-0.25).to(case.device, dtype)
        features: FeatureMap = Relu()
        if options.kernel != "relu-deterministic":
            features = {"softmax": RandomExponential, "relu": RandomRelu}[options.kernel](self.directions_DF)
        super().__init__(features, causal=case.mask.causal)

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: projections, and those of linear attention with F features."""
        options = msgspec.convert(case.options, Performer.Options)
        if options.kernel == "relu-deterministic":
            return count_by_features(case, features=case.shape.head_dim)
        return count_by_features(case, features=options.features, projected=options.features)


def draw_directions(dim: int, count: int, *, seed: int) -> torch.Tensor:
    """Draw directions, each standard normal by itself, orthogonal within each `dim` of them: float64 [count, dim].

    On the CPU, so that every device has the same (section 2.4).
    """
    generator = Generator().manual_seed(seed)
    blocks = -(-count // dim)
    normal_NDD = torch.randn(blocks, dim, dim, generator=generator, dtype=torch.float64)
    lengths_F1 = torch.randn(count, dim, generator=generator, dtype=torch.float64).norm(dim=1, keepdim=True)
    q_NDD, r_NDD = torch.linalg.qr(normal_NDD)
    # Householder's signs depend on what is factored; positive diagonals make the factor uniform (Mezzadri 2007).
    uniform_NDD = q_NDD * r_NDD.diagonal(dim1=1, dim2=2).sign()[:, None]
    return torch.mul(uniform_NDD.mT.reshape(-1, dim)[:count], lengths_F1)
