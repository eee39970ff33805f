"""Block-sparse attention by asking of each pair whether the layout keeps its block (Dao et al. 2022, section 3.3)."""

from collections.abc import Callable

import torch

from attnbench import Attention, Case
from references.exact import softmax_over
from references.reference import Reference


def attend(attention: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, case: Case) -> torch.Tensor:
    lists = attention.lists.numbers.tolist()
    heads = [
        softmax_over(q[:, [h]], k[:, [g]], v[:, [g]], sees_of(case, lists[h % len(lists)]))
        for h, g in ((h, h * k.shape[1] // q.shape[1]) for h in range(q.shape[1]))
    ]
    return torch.cat(heads, dim=1)


def sees_of(case: Case, drawn: list[list[int]]) -> Callable[[int, int], bool]:
    """Return the rule of what a head sees; `drawn` is read for random patterns only."""
    block = case.options["block"]

    def sees(i: int, j: int) -> bool:
        if case.mask.causal and j > i:
            return False
        own, other = i // block, j // block
        if case.options["pattern"] == "butterfly":
            return (own ^ other).bit_count() <= 1
        return own == other or other in drawn[own]

    return sees


REFERENCES = {
    "block-sparse": Reference(
        attend,
        options=(
            {"block": 2},
            {"block": 4},
            {"block": 1},
            {"block": 3, "pattern": "random", "density": 0.4},
            {"block": 2, "pattern": "random", "density": 0.1},
            {"block": 4, "pattern": "random", "density": 1.0},
            {},
        ),
    )
}
