"""Linear attention by its definition: a weight f(q) . f(k) for every pair (Katharopoulos et al. 2020, eqs. 4 and 7).

With softmax features: a query's average of averages, each by one feature's softmax over the keys (Shen et al. 2018).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import elu

from attnbench import Attention, Case
from references.reference import Reference


def attend(attention: Attention, q: Tensor, k: Tensor, v: Tensor, case: Case) -> Tensor:
    def row(query: Tensor, keys: Tensor, values: Tensor, *_: int) -> Tensor:
        if case.options["features"] == "softmax":
            averages = [(keys[:, f].softmax(dim=0)[:, None] * values).sum(dim=0) for f in range(len(query))]
            return (query.softmax(dim=0)[:, None] * torch.stack(averages)).sum(dim=0)
        if case.options["features"] == "relu":
            return weighted((keys.relu() * query.relu()).sum(dim=1), values)
        return weighted(((elu(keys) + 1) * (elu(query) + 1)).sum(dim=1), values)

    return row_by_row(row, q, k, v, case)


def row_by_row(row: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, case: Case) -> Tensor:
    """Answer each query by `row(query, keys, values, head, group, t)`, from the keys and values that it sees."""
    batch, heads, queries, _ = q.shape
    groups, keys = k.shape[1:3]
    rows = []
    for b, h, t in ((b, h, t) for b in range(batch) for h in range(heads) for t in range(queries)):
        g = h // (heads // groups)
        seen = keys - queries + t + 1 if case.mask.causal else keys
        rows.append(row(q[b, h, t], k[b, g, :seen], v[b, g, :seen], h, g, t))
    return torch.stack(rows).view(batch, heads, queries, -1)


def weighted(weights: Tensor, values: Tensor) -> Tensor:
    """Average values, or return zeros where there is no weight at all."""
    total = weights.sum()
    return (weights[:, None] * values).sum(dim=0) / (total or 1)


REFERENCES = {"linear": Reference(attend, options=({}, {"features": "relu"}, {"features": "softmax"}))}
