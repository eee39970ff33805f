"""T5's relative position bias, one query at a time (Raffel et al. 2020, section 2.1)."""

import math

import torch

from attnbench import Attention, Case
from references.biased import softmax_with
from references.reference import Reference


def attend(attention: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, case: Case) -> torch.Tensor:
    number, last = case.options["buckets"], case.options["distance"]

    def bias(h: int, i: int, j: int) -> torch.Tensor:
        return attention.bias_HU[h, bucket(j - i, number, last, case.mask.causal)]

    return softmax_with(q if case.options["scale"] else q * q.shape[-1] ** 0.5, k, v, case, bias)


def bucket(distance: int, number: int, last: int, causal: bool) -> int:
    """The bucket of a distance: an interval of its own, or one of a geometric progression."""
    if not causal:
        return bucket(-abs(distance), number // 2, last, True) + (number // 2 if distance > 0 else 0)
    away, single = max(0, -distance), number // 2
    if away < single:
        return away
    step = math.log(last / single) / (number - single)
    return min(number - 1, single + int(math.log(away / single) / step))


REFERENCES = {
    "t5-bias": Reference(
        attend,
        options=({"buckets": 8, "distance": 12}, {}, {"buckets": 4, "distance": 5, "scale": False}),
    )
}
