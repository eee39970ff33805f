"""Block-local attention with global blocks, by asking of each pair whether it is in the pattern."""

import torch

from attnbench import Attention, Case
from references.exact import softmax_over
from references.reference import Reference


def attend(attention: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, case: Case) -> torch.Tensor:
    block, neighbours = case.options["block"], case.options["neighbours"]
    hubs = case.options["globals"] * block

    def sees(i: int, j: int) -> bool:
        if case.mask.causal and j > i:
            return False
        if i < hubs or j < hubs:
            return True
        return abs((i - hubs) // block - (j - hubs) // block) <= neighbours

    return softmax_over(q, k, v, sees)


REFERENCES = {
    "sparse": Reference(
        attend,
        options=(
            {"block": 4},
            {"block": 4, "globals": 2, "neighbours": 0},
            {"block": 3, "globals": 0, "neighbours": 2},
            {"block": 1, "globals": 1, "neighbours": 1},
            {"block": 64},
        ),
    )
}
