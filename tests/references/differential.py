"""Differential attention as two softmaxes, one subtracted from the other (Ye et al. 2024, eqs. 1 to 3)."""

import math

import torch

from attnbench import Attention, Case
from references.exact import softmax_over, visible
from references.reference import Reference


def attend(attention: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, case: Case) -> torch.Tensor:
    half = q.shape[3] // 2

    def softmax(features: slice) -> torch.Tensor:
        return softmax_over(q[..., features], k[..., features], v, lambda i, j: visible(i, j, case))

    start = 0.8 - 0.6 * math.exp(-0.3 * (case.options["layer"] - 1))
    (a1, b1), (a2, b2) = attention.exponents
    out = softmax(slice(0, half)) - ((a1 @ b1).exp() - (a2 @ b2).exp() + start) * softmax(slice(half, None))
    if case.options["norm"] == "none":
        return out
    size = (out.pow(2).sum(dim=-1, keepdim=True) / q.shape[3] + 1e-5) ** 0.5
    return (1 - start) * attention.scale * out / size


REFERENCES = {
    "differential": Reference(
        attend,
        options=({"norm": "none", "layer": 2}, {"norm": "head"}),
        breaks={
            "sums": "the weights of one softmax are taken from those of another",
            "signs": "so that some are below 0",
        },
    )
}
