"""cosFormer: linear attention whose weights fall off with the distance of query and key as a cosine.

Qin et al. 2022, "cosFormer: Rethinking softmax in attention", eqs. 9 to 12:

    weight(i, j) = relu(q_i) . relu(k_j) cos(pi / 2 (i - j) / M)      normalised to sum to one over the keys j
                 = f(q_i) . f(k_j),   f(x_i) = [relu(x_i) cos(pi / 2 i / M), relu(x_i) sin(pi / 2 i / M)]     [2 D]

by the cosine of a difference, so that it is linear attention with 2 D features: time O((T + S) D^2), memory
O((T + S) D). Causally sums go up to the query's own key. In decoding the sums are the state, with the position. There
is no window: a sum cannot forget a key.

Where the paper leaves a choice, or the authors' code differs:

- M is the longer of queries and keys, as in their code; so a decoding state serves as many keys as the case has, and a
  longer sequence is another mechanism. Steps beyond M are refused: their cosines would be negative.
- Queries are the last T positions of the keys; where there are more queries than keys, the keys are the last positions
  of the queries. Their code aligns both at the start, and counts positions from 1, which cancels.
- A query that shares no feature with any key has no weights, and gets zeros. Their code divides by at least 1e-6, which
  gives zeros too, but also shrinks what has a smaller sum.
"""
# X sequences, T rows (queries or keys), D head dimension

import torch

from attnbench import Case, Support
from attnbench_variants.blocks.dtypes import wide
from attnbench_variants.blocks.fused_kernels import TORCH
from attnbench_variants.blocks.reach import all_keys
from attnbench_variants.linear.feature_attention import FeatureAttention, FeatureMap, count_by_features


class CosineRelu(FeatureMap):
    """relu(x) times the cosine and the sine of its position's angle, which is pi / 2 at position `length`.

    Positions are counted from `offset` before the first key. Raises ValueError for a position beyond `length`.
    """

    def __init__(self, length: int, *, offset: int, device: str) -> None:
        self._offset = offset
        angles_T = torch.arange(length, dtype=torch.float64) * (torch.pi / 2 / length)
        self._turns_T21 = torch.stack([angles_T.cos(), angles_T.sin()], dim=1)[..., None].to(device)

    def keys(self, x_XTD: torch.Tensor, first: int) -> torch.Tensor:
        """Cut, and weight by position: F = 2 D."""
        start = self._offset + first
        end = start + x_XTD.shape[-2]
        if end > len(self._turns_T21):
            raise ValueError(f"its cosine was made for {len(self._turns_T21)} positions, and there is one more")
        f_XTD = wide(x_XTD).relu()
        turns_T21 = self._turns_T21[start:end].to(f_XTD.dtype)
        return (f_XTD[..., None, :] * turns_T21).flatten(-2)


class Cosformer(FeatureAttention):
    """cosFormer (Qin et al. 2022): weights relu(q_i) . relu(k_j) cos(pi / 2 (i - j) / M), normalised."""

    supports = Support(
        window="a sum over all earlier keys cannot forget those that leave a window", grouped=True, growth=1
    )
    reach = staticmethod(all_keys)
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
