"""BigBird by asking of each pair whether it is in the pattern (Zaheer et al. 2020, section 2: ITC)."""

from collections.abc import Callable

import torch

from attnbench import Attention, Case
from references.exact import softmax_over
from references.reference import Reference


def attend(attention: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, case: Case) -> torch.Tensor:
    heads = [
        softmax_over(q[:, [h]], k[:, [g]], v[:, [g]], sees_of(case, attention.lists.numbers[h].tolist()))
        for h, g in ((h, h * k.shape[1] // q.shape[1]) for h in range(q.shape[1]))
    ]
    return torch.cat(heads, dim=1)


def sees_of(case: Case, drawn: list[list[int]]) -> Callable[[int, int], bool]:
    """Return the rule of what a head sees, given its random blocks for each block after the global ones."""
    block, neighbours = case.options["block"], case.options["neighbours"]
    hubs = case.options["globals"] * block

    def sees(i: int, j: int) -> bool:
        if case.mask.causal and j > i:
            return False
        if i < hubs or j < hubs:
            return True
        own, other = (i - hubs) // block, (j - hubs) // block
        return abs(own - other) <= neighbours or other in drawn[own]

    return sees


REFERENCES = {
    "bigbird": Reference(
        attend,
        options=(
            {"block": 2},
            {"block": 3, "globals": 1, "neighbours": 0, "random": 2},
            {"block": 1, "globals": 0, "neighbours": 1, "random": 3},
            {"block": 4, "globals": 1, "neighbours": 1, "random": 9},
            {"block": 2, "globals": 0, "neighbours": 0, "random": 0},
            {},
        ),
    )
}
