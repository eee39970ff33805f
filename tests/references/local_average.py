"""Local averages, a query at a time: the mean of the values in its window."""

import torch

from attnbench import Attention, Case
from references.reference import Reference


def attend(attention: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, case: Case) -> torch.Tensor:
    del attention
    batch, heads, queries, _ = q.shape
    groups, keys = k.shape[1:3]
    rows = []
    for b, h, t in ((b, h, t) for b in range(batch) for h in range(heads) for t in range(queries)):
        i = keys - queries + t
        near = [j for j in range(keys) if abs(i - j) < case.options["width"] and (j <= i or not case.mask.causal)]
        rows.append(v[b, h // (heads // groups), near].sum(dim=0) / len(near))
    return torch.stack(rows).view(batch, heads, queries, -1)


REFERENCES = {
    "local-average": Reference(
        attend,
        options=({"width": 4}, {"width": 1}, {"width": 64}),
        breaks={"queries": "all values near by weigh the same, whatever the query"},
    )
}
