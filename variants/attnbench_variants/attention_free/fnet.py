"""FNet: tokens are mixed by a Fourier transform. No attention; a floor for what attention costs and brings.

Lee-Thorp et al. 2021, "FNet: Mixing Tokens with Fourier Transforms":

    out = Re(DFT_tokens(DFT_features(x)))                                 x [N, E], E = H D

The features of all heads of the values side by side are x, so heads do mix; queries and keys are not read. The paper
has no projections around it; at layer level here are those of every mechanism. Not normalised, as in the paper's code,
unless `ortho`; half precision is transformed in float32. Time: O(N E log(N E)); memory: O(N E). Nothing is learned.
There is no causal form, window, cross-attention or grouping of heads: the transform mixes every token with all others.
"""
# B batch, H heads, N tokens, D head dimension, E = H * D features of a token, F = E // 2 + 1 of its spectrum

import math
from typing import Annotated

import torch
from msgspec import Meta

from attnbench import Case, Support
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.dtypes import wide
from attnbench_variants.blocks.fused_kernels import TORCH
from attnbench_variants.blocks.reach import all_keys


class FNet(torch.nn.Module):
    """FNet's mixing: the real part of the Fourier transform over tokens and features (Lee-Thorp et al. 2021)."""

    class Options(BaseOptions, frozen=True, kw_only=True):
        """The size of the output."""

        ortho: Annotated[bool, Meta(description="divide by sqrt(N E), so that outputs are as large as inputs")] = False

    supports = Support(
        passes=("forward", "backward", "forward-backward"),
        causal="the Fourier transform mixes every token with all others, later ones too",
        window="the Fourier transform mixes every token with all others",
        cross="it mixes the tokens of one sequence, and knows no other",
        grouped="it mixes the values alone, so that there is one value head for each head of the output",
        growth=1.15,  # N log N is 1.12 from 2048 to 16384 tokens
    )
    reach = staticmethod(all_keys)
    backend = f"torch-fft {TORCH}"

    def __init__(self, case: Case, options: Options) -> None:
        super().__init__()
        del case
        self._norm = "ortho" if options.ortho else "backward"

    def forward(self, q_BHND: torch.Tensor, k_BHND: torch.Tensor, v_BHND: torch.Tensor) -> torch.Tensor:
        """Mix the values: out_BHND."""
        del q_BHND, k_BHND
        heads = v_BHND.shape[1]
        x_BNE = wide(v_BHND.transpose(1, 2).flatten(2))
        half_BNF = torch.fft.rfft2(x_BNE, norm=self._norm).real
        mixed_BNE: torch.Tensor = torch.cat([half_BNF, _mirrored(half_BNF, x_BNE.shape[2] - half_BNF.shape[2])], dim=2)
        mixed_BNHD = mixed_BNE.to(v_BHND.dtype).view(*mixed_BNE.shape[:2], heads, -1)
        return mixed_BNHD.transpose(1, 2)

    @staticmethod
    def flops(case: Case) -> int:
        """Count 2.5 n log2 n operations for a real transform of n = N E numbers, as the field does; one each pass."""
        shape = case.shape
        numbers = shape.seq_k * shape.heads * shape.head_dim
        return int(2.5 * shape.batch * numbers * max(1.0, math.log2(numbers))) * (2 if "-" in case.passes else 1)


def _mirrored(half_BNF: torch.Tensor, count: int) -> torch.Tensor:
    """Return the other half: of a real signal y[-n, -f] is the conjugate of y[n, f], whose real part is the same."""
    reversed_BNC = half_BNF[:, :, 1 : 1 + count].flip(1, 2)
    return reversed_BNC.roll(1, dims=1)
