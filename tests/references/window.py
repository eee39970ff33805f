"""Sliding-window attention, by asking of each pair whether the key is in the query's window."""

import torch

from attnbench import Attention, Case
from references.exact import softmax_over
from references.reference import Reference


def attend(attention: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, case: Case) -> torch.Tensor:
    width, dilation = case.options["width"], case.options["dilation"]

    def sees(i: int, j: int) -> bool:
        if case.mask.causal and j > i:
            return False
        return (i - j) % dilation == 0 and abs(i - j) < width * dilation

    return softmax_over(q, k, v, sees)


REFERENCES = {
    "window": Reference(
        attend,
        options=({"width": 4}, {"width": 1}, {"width": 3, "dilation": 2}, {"width": 9, "dilation": 30}, {"width": 64}),
    )
}
