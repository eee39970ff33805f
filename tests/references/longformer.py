"""Longformer's attention, by asking of each pair whether one is global or both are near."""

import torch

from attnbench import Attention, Case
from references.exact import softmax_over
from references.reference import Reference


def attend(attention: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, case: Case) -> torch.Tensor:
    reach, hubs, dilation = case.options["width"] // 2, case.options["globals"], case.options["dilation"]

    def sees(i: int, j: int) -> bool:
        if case.mask.causal and j > i:
            return False
        if i < hubs or j < hubs:
            return True
        return (i - j) % dilation == 0 and abs(i - j) <= reach * dilation

    return softmax_over(q, k, v, sees)


REFERENCES = {
    "longformer": Reference(
        attend,
        options=(
            {"width": 6},
            {"width": 4, "globals": 3, "dilation": 2},
            {"width": 2, "globals": 0},
            {"width": 2, "globals": 17},
            {"globals": 30},
        ),
    )
}
