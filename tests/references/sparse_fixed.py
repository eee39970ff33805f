"""Fixed sparse attention by asking of each pair (Child et al. 2019, section 4.3), both ways if not causal."""

import math

import torch

from attnbench import Attention, Case
from references.exact import softmax_over
from references.reference import Reference


def attend(attention: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, case: Case) -> torch.Tensor:
    stride, c = case.options["stride"] or 32 * math.ceil(k.shape[2] ** 0.5 / 32), case.options["c"]

    def sees(i: int, j: int) -> bool:
        if (case.mask.causal or case.options["causal"]) and j > i:
            return False
        return i // stride == j // stride or j % stride >= stride - c

    return softmax_over(q, k, v, sees)


REFERENCES = {
    "sparse-fixed": Reference(
        attend,
        options=(
            {"stride": 4, "c": 1},
            {"stride": 5, "c": 3},
            {"stride": 1, "c": 1},
            {"stride": 8, "c": 8},
            {"stride": 6, "c": 9},
            {"stride": 5, "c": 3, "causal": True},
            {},
        ),
    )
}
