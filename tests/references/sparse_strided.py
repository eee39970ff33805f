"""Strided sparse attention by asking of each pair (Child et al. 2019, section 4.3), both ways if not causal."""

import math

import torch

from attnbench import Attention, Case
from references.exact import softmax_over
from references.reference import Reference


def attend(attention: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, case: Case) -> torch.Tensor:
    stride = case.options["stride"] or 32 * math.ceil(k.shape[2] ** 0.5 / 32)

    def sees(i: int, j: int) -> bool:
        if case.mask.causal and j > i:
            return False
        return abs(i - j) <= stride or (i - j) % stride == 0

    return softmax_over(q, k, v, sees)


REFERENCES = {
    "sparse-strided": Reference(
        attend, options=({"stride": 4}, {"stride": 5}, {"stride": 1}, {"stride": 7}, {"stride": 16}, {})
    )
}
