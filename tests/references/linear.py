"""Linear attention by its definition: a weight f(q) . f(k) for every pair (Katharopoulos et al. 2020, eqs. 4 and 7)."""

import torch
from torch.nn.functional import elu

from attnbench import Attention, Case
from references.reference import Reference


def attend(attention: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, case: Case) -> torch.Tensor:
    batch, heads, queries, _ = q.shape
    groups, keys = k.shape[1:3]
    rows = []
    for b, h, t in ((b, h, t) for b in range(batch) for h in range(heads) for t in range(queries)):
        g = h // (heads // groups)
        seen = keys - queries + t + 1 if case.mask.causal else keys
        weights = ((elu(k[b, g, :seen]) + 1) * (elu(q[b, h, t]) + 1)).sum(dim=1)
        rows.append((weights[:, None] * v[b, g, :seen]).sum(dim=0) / weights.sum())
    return torch.stack(rows).view(batch, heads, queries, -1)


REFERENCES = {"linear": Reference(attend)}
