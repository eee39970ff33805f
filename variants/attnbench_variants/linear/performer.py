"""Performer: the softmax's kernel estimated by positive random features, which linear attention then shares."""
# D head dimension, F features, N blocks of D directions

from typing import Annotated, ClassVar, Literal

import msgspec
import torch
from msgspec import Meta
from torch import Generator

from attnbench import Case, Support, Tune
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.feature_attention import FeatureAttention
from attnbench_variants.blocks.feature_counts import count_by_features
from attnbench_variants.blocks.feature_maps import RandomExponential, RandomRelu
from attnbench_variants.blocks.fused import TORCH


class Performer(FeatureAttention):
    """FAVOR+ (Choromanski et al. 2020, lemma 1): features exp(w . x - |x|^2 / 2), x = q or k by D^(1/4).

    Their products average to exp(q . k / sqrt(D)) over random w, which are orthogonal within each D of them and as long
    as independent normal ones (section 2.4); so the error against softmax attention falls as features grow. Time
    O((T + S) D F), memory O((T + S) F). Causal in chunks (appendix B.1); decoding adds a key to the sums.

    Where the paper leaves a choice, or the authors' code differs:

    - 256 features, as in the paper's experiments and as its code's default; ports take D ln D (266 where D is 64).
    - The w are drawn once from the case's seed, for all heads, and are not drawn anew while training (the paper
      does, every so many steps). Signs of the orthogonal factor are those that make it uniform.
    - Exponents are taken off the largest of each feature over the keys (causally, up to a chunk's end), which the
      queries give back, and of each query over its features: that cancels. Only a row whose own keys are e^79 below a
      later one of its chunk averages them evenly. The authors take one maximum over all keys and features and then add
      1e-4 to every feature, which does not cancel and is left out here.
    - `relu` is the paper's generalised attention (Performer-ReLU): max(w . x, 0) + 0.001, the authors' kernel_epsilon.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """More features cost more and come closer to softmax attention."""

        features: Annotated[int, Meta(ge=1, description="random features")] = 256
        kernel: Annotated[
            Literal["softmax", "relu"],
            Meta(
                description="what the features estimate: softmax attention, or a kernel of their own (Performer-ReLU)"
            ),
        ] = "softmax"

    tunes: ClassVar = {"features": Tune("32..4096", monotone=False)}
    supports = Support(
        window="a sum over all earlier keys cannot forget those that leave a window", grouped=True, growth=1
    )
    backend = f"torch-matmul {TORCH}"

    def __init__(self, case: Case, options: Options) -> None:
        dim = case.shape.head_dim
        dtype = torch.promote_types(getattr(torch, case.dtype), torch.float32)
        directions_FD = draw_directions(dim, options.features, seed=case.seed)
        self.directions_DF = (directions_FD.T * dim**-0.25).to(case.device, dtype)
        features = RandomExponential if options.kernel == "softmax" else RandomRelu
        super().__init__(features(self.directions_DF), causal=case.mask.causal)

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: projections, and those of linear attention with F features."""
        options = msgspec.convert(case.options, Performer.Options)
        exponents, features = options.kernel == "softmax", options.features
        return count_by_features(case, features=features, projected=features, exponents=exponents)


def draw_directions(dim: int, count: int, *, seed: int) -> torch.Tensor:
    """Draw directions, each standard normal by itself, orthogonal within each `dim` of them: float64 [count, dim].

    On the CPU, so that every device has the same (Choromanski et al. 2020, section 2.4).
    """
    generator = Generator().manual_seed(seed)
    blocks = -(-count // dim)
    normal_NDD = torch.randn(blocks, dim, dim, generator=generator, dtype=torch.float64)
    lengths_F1 = torch.randn(count, dim, generator=generator, dtype=torch.float64).norm(dim=1, keepdim=True)
    q_NDD, r_NDD = torch.linalg.qr(normal_NDD)
    # Householder's signs depend on what is factored; positive diagonals make the factor uniform (Mezzadri 2007).
    uniform_NDD = q_NDD * r_NDD.diagonal(dim1=1, dim2=2).sign()[:, None]
    return torch.mul(uniform_NDD.mT.reshape(-1, dim)[:count], lengths_F1)
