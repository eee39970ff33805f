"""Attention as the difference of two softmaxes, so that what both weigh alike cancels."""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension, d = D / 2

import math
from typing import Annotated, Literal

import torch
from msgspec import Meta
from msgspec.structs import replace

from attnbench import Case, Support, Unsupported
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.flop_counts import executed
from attnbench_variants.blocks.masks import visible_pairs
from attnbench_variants.exact.flash import first_that_runs

_EPSILON = 1e-5


class Differential(torch.nn.Module):
    """Differential attention: (softmax(q1 k1^T / sqrt(d)) - l softmax(q2 k2^T / sqrt(d))) v (Ye et al. 2024, eqs. 1-3).

    A head's queries and keys are split into two halves of d = D / 2 features, its values stay whole: the paper's heads
    of values 2d wide, of which a model has half as many. l = exp(a1 . b1) - exp(a2 . b2) + l0, with four learned
    vectors that all heads share, drawn as normals of deviation 0.1 from the case's seed, and l0 = 0.8 - 0.6
    exp(-0.3 (layer - 1)). With `norm` a head's output is divided by its root mean square, times a learned scale and
    1 - l0 (eq. 3).
    Both softmaxes are exact attention, in the kernel that `flash` would take: queries with one half set to zero, as
    heads that share whole keys and values. That makes 16 T S d operations of the 12 that it takes, and no copy of keys.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """What the paper sets by the layer's depth, and the normalisation of heads."""

        layer: Annotated[int, Meta(ge=1, description="the layer's number from 1, which sets where l starts")] = 1
        norm: Annotated[
            Literal["head", "none"], Meta(description="root mean square norm of each head's output, or none")
        ] = "head"

    supports = Support(devices=("cpu", "cuda"), window=True, grouped=True, growth=2)

    def __init__(self, case: Case, options: Options) -> None:
        super().__init__()
        if case.shape.head_dim % 2:
            raise Unsupported(f"it splits the features of a head into two halves, and {case.shape.head_dim} are odd")
        self._kernel = first_that_runs(replace(case, shape=replace(case.shape, heads=2 * case.shape.heads)))
        self.backend = self._kernel.name
        self._start = 0.8 - 0.6 * math.exp(-0.3 * (options.layer - 1))
        dtype, generator = getattr(torch, case.dtype), torch.Generator().manual_seed(case.seed)
        drawn_22d = 0.1 * torch.randn(2, 2, case.shape.head_dim // 2, dtype=torch.float64, generator=generator)
        self.exponents = torch.nn.Parameter(drawn_22d.to(dtype).to(case.device))
        self.scale = None
        if options.norm == "head":
            self.scale = torch.nn.Parameter(torch.ones(case.shape.head_dim, dtype=dtype, device=case.device))

    @property
    def subtracted(self) -> torch.Tensor:
        """Give l, the share of the second softmax that is subtracted, in float32 or wider."""
        wide_22d = self.exponents.to(torch.promote_types(self.exponents.dtype, torch.float32))
        first, second = wide_22d.prod(dim=1).sum(dim=1).exp().unbind()
        return first.sub(second).add(self._start)

    def forward(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        half = q_BHTD.shape[3] // 2
        # Kernels divide scores by sqrt(D), and these are to be divided by sqrt(D / 2).
        q_BHTD = q_BHTD * 2**0.5
        none_BHTd = torch.zeros_like(q_BHTD[..., :half])
        first_BHTD = torch.cat([q_BHTD[..., :half], none_BHTd], dim=-1)
        second_BHTD = torch.cat([none_BHTd, q_BHTD[..., half:]], dim=-1)
        both_BHTD = self._kernel(_neighbours(first_BHTD, second_BHTD), k_BGSD, v_BGSD)
        ones_BHTD, others_BHTD = both_BHTD.unflatten(1, (-1, 2)).unbind(2)
        out_BHTD = ones_BHTD - self.subtracted.to(q_BHTD.dtype) * others_BHTD
        return out_BHTD if self.scale is None else self._normalised(out_BHTD)

    def _normalised(self, out_BHTD: torch.Tensor) -> torch.Tensor:
        wide_BHTD = out_BHTD.to(torch.promote_types(out_BHTD.dtype, torch.float32))
        size_BHT1 = wide_BHTD.square().mean(dim=-1, keepdim=True).add(_EPSILON).sqrt()
        assert self.scale is not None
        return (wide_BHTD / size_BHT1).to(out_BHTD.dtype) * (self.scale * (1 - self._start)).to(out_BHTD.dtype)

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: the visible pairs twice, with whole heads."""
        shape = case.shape
        pairs = visible_pairs(case.mask, queries=shape.seq_q, keys=shape.seq_k)
        return executed(8 * shape.batch * shape.heads * pairs * shape.head_dim, case, scores="recomputed")


def _neighbours(first_BHTD: torch.Tensor, second_BHTD: torch.Tensor) -> torch.Tensor:
    """Stand the two queries of a head side by side, so that a group's heads stay together."""
    return torch.stack([first_BHTD, second_BHTD], dim=2).flatten(1, 2)
