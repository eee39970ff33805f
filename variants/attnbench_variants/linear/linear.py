"""Linear attention: the softmax's kernel replaced by a product of features, so that sums over keys can be shared."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from attnbench import Case, Support
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.feature_attention import FeatureAttention
from attnbench_variants.blocks.feature_counts import count_by_features
from attnbench_variants.blocks.feature_maps import Elu, FeatureMap, Relu, Softmax
from attnbench_variants.blocks.fused import TORCH

_MAPS: dict[str, FeatureMap] = {"elu": Elu(), "relu": Relu(), "softmax": Softmax()}


class Linear(FeatureAttention):
    """Linear attention, by default with the feature map elu(x) + 1 (Katharopoulos et al. 2020, eqs. 4 to 12).

    out_t = sum_s (f(q_t) . f(k_s)) v_s / sum_s f(q_t) . f(k_s), over all keys or, causally, those up to t; queries are
    the last T positions of the keys. Sums are held in float32 or wider. Time and memory: O((T + S) D^2), O((T + S) D).
    In decoding the sums over the keys so far are the state (section 3.4): O(D^2) a token, whatever came before it.

    Where the papers leave a choice:

    - `relu` is cosFormer's map without its re-weighting (Qin et al. 2022) and EfficientViT's (Cai et al.
      2023). A query that shares no feature with any key has no weights; it gets zeros, as with the authors' epsilons.
    - `softmax` is Efficient Attention (Shen et al. 2018, section 3.2): a query's softmax over its D features chooses
      among D averages of the values, each by a softmax of one feature over the keys. It has no causal form in the
      paper; here each of these softmaxes goes over the keys up to t, so that a row is what the full form gives for its
      prefix. (Published causal code divides by the sum over features at once instead, which is another mechanism.)
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """What stands for exp(q . k)."""

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
    backend = f"torch-matmul {TORCH}"

    def __init__(self, case: Case, options: Options) -> None:
        super().__init__(_MAPS[options.features], causal=case.mask.causal)

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: sums over keys, their use, and the pairs of causal chunks.

        In decoding: the last key added to the sums, and their use.
        """
        of = _MAPS[msgspec.convert(case.options, Linear.Options).features]
        return count_by_features(case, features=case.shape.head_dim, apart=of.apart, exponents=of.exponents)
