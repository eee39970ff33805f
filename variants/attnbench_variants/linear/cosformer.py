"""cosFormer: linear attention whose weights fall off with the distance of query and key as a cosine."""

from attnbench import Case, Support
from attnbench_variants.blocks.feature_attention import FeatureAttention
from attnbench_variants.blocks.feature_counts import count_by_features
from attnbench_variants.blocks.feature_maps import CosineRelu
from attnbench_variants.blocks.fused import TORCH


class Cosformer(FeatureAttention):
    """cosFormer (Qin et al. 2022): weights relu(q_i) . relu(k_j) cos(pi / 2 (i - j) / M), normalised.

    The cosine of a difference is a sum of products, so each of the D features becomes two: time O((T + S) D^2), memory
    O((T + S) D). Causally sums go up to the query's own key. In decoding the sums are the state, with the position.

    Where the paper leaves a choice, or the authors' code differs:

    - M is the longer of queries and keys, as in their code; so a decoding state serves as many keys as the case has,
      and a longer sequence is another mechanism. Steps beyond M are refused: their cosines would be negative.
    - Queries are the last T positions of the keys; where there are more queries than keys, the keys are the last
      positions of the queries. Their code aligns both at the start, and counts positions from 1, which cancels.
    - A query that shares no feature with any key has no weights, and gets zeros. Their code divides by at least 1e-6,
      which gives zeros too, but also shrinks what has a smaller sum.
    """

    supports = Support(
        window="a sum over all earlier keys cannot forget those that leave a window", grouped=True, growth=1
    )
    backend = f"torch-matmul {TORCH}"

    def __init__(self, case: Case) -> None:
        shape = case.shape
        offset = max(0, shape.seq_q - shape.seq_k)
        features = CosineRelu(max(shape.seq_q, shape.seq_k), offset=offset, device=case.device)
        super().__init__(features, causal=case.mask.causal)

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: those of linear attention with 2 D features."""
        return count_by_features(case, features=2 * case.shape.head_dim)
