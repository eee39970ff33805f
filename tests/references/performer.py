"""Performer by its estimator: a weight f(q) . f(k) for every pair (Choromanski et al. 2020, lemma 1)."""

from torch import Tensor

from attnbench import Attention, Case
from references.linear import row_by_row, weighted
from references.reference import Reference


def attend(attention: Attention, q: Tensor, k: Tensor, v: Tensor, case: Case) -> Tensor:
    def features(x: Tensor) -> Tensor:
        if case.options["kernel"] == "relu-deterministic":
            return x.clamp(min=0) + 1e-3
        projected = x @ attention.directions_DF
        if case.options["kernel"] == "relu":
            return projected.relu() + 1e-3
        return (projected - x.square().sum(dim=-1, keepdim=True) / (2 * x.shape[-1] ** 0.5)).exp()

    def row(query: Tensor, keys: Tensor, values: Tensor, *_: int) -> Tensor:
        return weighted(features(keys) @ features(query), values)

    return row_by_row(row, q, k, v, case)


OPTIONS = ({"features": 6}, {"features": 6, "kernel": "relu"}, {"kernel": "relu-deterministic"}, {})
REFERENCES = {"performer": Reference(attend, options=OPTIONS)}
