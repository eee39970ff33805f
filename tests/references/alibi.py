"""ALiBi, one query at a time: scores less a slope times the distance (Press et al. 2022, section 3)."""

import math

import torch

from attnbench import Attention, Case
from references.biased import softmax_with
from references.reference import Reference


def attend(attention: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, case: Case) -> torch.Tensor:
    slopes = slopes_of(q.shape[1])
    scale = case.options["slope_scale"]
    return softmax_with(q, k, v, case, lambda h, i, j: -scale * slopes[h] * abs(i - j))


def slopes_of(heads: int) -> list[float]:
    """The authors' rule, from the first slope and the ratio, which are the same."""
    if math.log2(heads).is_integer():
        first = 2 ** -(2 ** -(math.log2(heads) - 3))
        return [first * first**h for h in range(heads)]
    near = 2 ** math.floor(math.log2(heads))
    return slopes_of(near) + slopes_of(2 * near)[0::2][: heads - near]


REFERENCES = {"alibi": Reference(attend, options=({}, {"slope_scale": 3.5}, {"slope_scale": 0.0}))}
