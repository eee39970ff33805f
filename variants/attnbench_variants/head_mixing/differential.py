"""Differential attention: the difference of two softmaxes, so that what both weigh alike cancels.

Ye et al. 2024, "Differential Transformer", eqs. 1 to 3:

    out = (softmax(q1 k1^T / sqrt(d)) - l softmax(q2 k2^T / sqrt(d))) v          q1, q2 [T, d], k1, k2 [S, d], v [S, D]
    l = exp(a1 . b1) - exp(a2 . b2) + l0,   l0 = 0.8 - 0.6 exp(-0.3 (layer - 1))

A head's queries and keys are split into two halves of d = D / 2 features, its values stay whole: the paper's heads of
values 2d wide, of which a model has half as many. All heads share the four learned vectors, drawn as normals of
deviation 0.1 from the case's seed. With `norm` a head's output is divided by its root mean square, times a learned
scale and 1 - l0 (eq. 3). Time: O(T S D); memory beyond the output: O(T D).

Both softmaxes are exact attention, in the kernel that `flash` would take: queries with one half set to zero, as heads
that share whole keys and values. That makes 16 T S d operations of the 12 that it takes, and no copy of keys.
"""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension, d = D / 2

import math
from typing import Annotated, Literal

import torch
from msgspec import Meta
from msgspec.structs import replace

from attnbench import Case, Support, Unsupported
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.dtypes import wide
from attnbench_variants.blocks.flop_counts import executed_visible
from attnbench_variants.blocks.reach import all_keys
from attnbench_variants.blocks.weights import generator, learned, normal, undecayed
from attnbench_variants.exact.flash import first_that_runs

_EPSILON = 1e-5


class Differential(torch.nn.Module):
    """Differential attention: (softmax(q1 k1^T) - l softmax(q2 k2^T)) v (Ye et al. 2024, eqs. 1 to 3)."""

    class Options(BaseOptions, frozen=True, kw_only=True):
        """The layer's depth, and the normalisation of heads."""

        layer: Annotated[int, Meta(ge=1, description="the layer's number from 1, which sets where l starts")] = 1
        norm: Annotated[
            Literal["head", "none"], Meta(description="root mean square norm of each head's output, or none")
        ] = "head"

    supports = Support(devices=("cpu", "cuda"), window=True, grouped=True, growth=2, rotated_parts=2, layer="layer")
    reach = staticmethod(all_keys)

    def __init__(self, case: Case, options: Options) -> None:
        super().__init__()
        if case.shape.head_dim % 2:
            raise Unsupported(f"it splits the features of a head into two halves, and {case.shape.head_dim} are odd")
        self._kernel = first_that_runs(replace(case, shape=replace(case.shape, heads=2 * case.shape.heads)))
        self.backend = self._kernel.name
        self._start = 0.8 - 0.6 * math.exp(-0.3 * (options.layer - 1))
        drawn_22d = normal(2, 2, case.shape.head_dim // 2, deviation=0.1, generator=generator(case))
        self.exponents = undecayed(learned(case, drawn_22d))
        self.scale = learned(case, torch.ones(case.shape.head_dim)) if options.norm == "head" else None

    @property
    def subtracted(self) -> torch.Tensor:
        """The share l of the second softmax that is subtracted, in float32 or wider."""
        first, second = wide(self.exponents).prod(dim=1).sum(dim=1).exp().unbind()
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
        wide_BHTD = wide(out_BHTD)
        size_BHT1 = wide_BHTD.square().mean(dim=-1, keepdim=True).add(_EPSILON).sqrt()
        assert self.scale is not None
        return (wide_BHTD / size_BHT1).to(out_BHTD.dtype) * (self.scale * (1 - self._start)).to(out_BHTD.dtype)

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: the visible pairs twice, with whole heads."""
        return 2 * executed_visible(case)


def _neighbours(first_BHTD: torch.Tensor, second_BHTD: torch.Tensor) -> torch.Tensor:
    """Put the two queries of a head side by side, so that a group's heads stay together."""
    return torch.stack([first_BHTD, second_BHTD], dim=2).flatten(1, 2)
