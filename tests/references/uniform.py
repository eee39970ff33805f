"""Uniform attention, a query at a time: the mean of the values that the mask leaves."""

import torch

from attnbench import Attention, Case
from references.reference import Reference


def attend(attention: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, case: Case) -> torch.Tensor:
    del attention
    batch, heads, queries, _ = q.shape
    groups, keys = k.shape[1:3]
    reach = case.mask.window or keys + queries
    rows = []
    for b, h, t in ((b, h, t) for b in range(batch) for h in range(heads) for t in range(queries)):
        i = keys - queries + t
        seen = [j for j in range(keys) if abs(i - j) < reach and (j <= i or not case.mask.causal)]
        rows.append(v[b, h // (heads // groups), seen].sum(dim=0) / len(seen))
    return torch.stack(rows).view(batch, heads, queries, -1)


REFERENCES = {
    "uniform": Reference(
        attend,
        breaks={"queries": "all values that are seen weigh the same, whatever the query"},
    )
}
