"""Linear attention: the softmax's kernel exp(q . k) replaced by a product of features f(q) . f(k).

Katharopoulos et al. 2020, "Transformers are RNNs", eqs. 4 and 7 (causally 8 to 12):

    out_t = f(q_t) S / (f(q_t) . z),   S = sum_s f(k_s)^T v_s,   z = sum_s f(k_s)       S [D, D], z [D]
    f(x) = elu(x) + 1 = exp(x) where x < 0, else x + 1

The sums go over all S keys or, causally, those up to t; queries are the last T positions of the keys. They are held in
float32 or wider. Time: O((T + S) D^2); memory: O((T + S) D). In decoding the sums are the state (section 3.4): O(D^2) a
token, whatever came before it. There is no window: a sum cannot forget a key.

Other feature maps:

- `relu`: f(x) = max(x, 0), cosFormer's map without its re-weighting (Qin et al. 2022) and EfficientViT's (Cai et al.
  2023). A query that shares no feature with any key has no weights; it gets zeros, as with the authors' epsilons.
- `softmax`: Efficient Attention (Shen et al. 2018, section 3.2), out = softmax_D(Q) (softmax_S(K)^T V). A softmax over
  a query's D features averages D averages of the values, each by a softmax of one feature over the keys. The paper has
  no causal form; here each softmax over keys goes up to t, so that a row is what the full form returns for its prefix.
  (Published causal code divides by the sum over all features instead, which is another mechanism.)
"""

from typing import Annotated, Any, Literal

import msgspec
import torch
from msgspec import Meta

from attnbench import Case, Support
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.dtypes import wide
from attnbench_variants.blocks.flop_counts import executed
from attnbench_variants.blocks.fused_kernels import TORCH
from attnbench_variants.blocks.reach import all_keys
from attnbench_variants.linear.feature_attention import FeatureAttention, FeatureMap, count_by_features


class Elu(FeatureMap):
    """elu(x) + 1."""

    def keys(self, x_XTK: torch.Tensor, first: int) -> torch.Tensor:
        """Map each number by itself."""
        del first
        f_XTF: torch.Tensor = _EluPlusOne.apply(wide(x_XTK))  # type: ignore[no-untyped-call] # torch leaves it untyped
        return f_XTF


class _EluPlusOne(torch.autograd.Function):
    """elu(x) + 1 with its derivative min(f, 1), which needs f alone.

    By hand, as autograd would keep two more tensors: `linear` would take 1.3 (causal) to 1.5 times as long for both
    passes and hold 1.5 to 1.7 times the memory (4096 tokens).
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        f = x.clamp(max=0).exp_().add_(x.clamp(min=0))  # above zero even where elu(x) rounds to -1
        ctx.save_for_backward(f)
        return f

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        f: torch.Tensor = ctx.saved_tensors[0]
        return gradient * f.clamp(max=1)


class Relu(FeatureMap):
    """max(x, 0)."""

    def keys(self, x_XTK: torch.Tensor, first: int) -> torch.Tensor:
        """Map each number by itself."""
        del first
        return wide(x_XTK).relu()


class Softmax(FeatureMap):
    """Softmax of a query over its features, and of each feature over the keys."""

    exponents = True
    apart = True

    def keys(self, x_XTK: torch.Tensor, first: int) -> torch.Tensor:
        """Return the exponents as they are."""
        del first
        return wide(x_XTK)


_MAPS: dict[str, FeatureMap] = {"elu": Elu(), "relu": Relu(), "softmax": Softmax()}


class Linear(FeatureAttention):
    """Linear attention, by default with the feature map elu(x) + 1 (Katharopoulos et al. 2020, eqs. 4 to 12)."""

    class Options(BaseOptions, frozen=True, kw_only=True):
        """The feature map."""

        features: Annotated[
            Literal["elu", "relu", "softmax"],
            Meta(
                description="feature map: elu(x) + 1, max(x, 0), or a softmax over features (queries) and positions "
                "(keys)"
            ),
        ] = "elu"

    supports = Support(
        window="a sum over all earlier keys cannot forget those that leave a window", grouped=True, growth=1
    )
    reach = staticmethod(all_keys)
    backend = f"torch-matmul {TORCH}"

    def __init__(self, case: Case, options: Options) -> None:
        super().__init__(_MAPS[options.features], causal=case.mask.causal)
        self._at_once = options.features == "softmax" and not case.mask.causal

    def __call__(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        attend = efficient_attention if self._at_once else super().__call__
        return attend(q_BHTD, k_BGSD, v_BGSD)

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: sums over keys, their use, and the pairs of causal chunks.

        In decoding: the last key added to the sums, and their use.
        """
        shape, options = case.shape, msgspec.convert(case.options, Linear.Options)
        if options.features == "softmax" and not case.mask.causal and case.passes != "decode":
            rows = shape.kv_heads * shape.seq_k + shape.heads * shape.seq_q
            return executed(2 * shape.batch * rows * shape.head_dim**2, case)
        return count_by_features(case, features=shape.head_dim)


def efficient_attention(q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
    """Return softmax_D(Q) (softmax_S(K)^T V): out_BHTD. By running sums, as causally, it takes 1.3 times as long."""
    with torch.autocast(q_BHTD.device.type, enabled=False):  # mixed precision would take the sums in half precision
        averages_BGDD = wide(k_BGSD).softmax(dim=2).mT @ wide(v_BGSD)
        shares_BGRD = wide(q_BHTD).softmax(dim=3).reshape(*k_BGSD.shape[:2], -1, q_BHTD.shape[3])
        return (shares_BGRD @ averages_BGDD).to(v_BGSD.dtype).view(*q_BHTD.shape[:3], -1)
