"""Retention in its parallel form: every pair weighed by g^(t - s) (q_t . k_s) / sqrt(D) (Sun et al. 2023, eq. 5)."""

import torch

from attnbench import Attention, Case
from references.recurrence import BREAKS, normed
from references.reference import Reference


def attend(attention: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, case: Case) -> torch.Tensor:
    batch, heads, queries, dim = q.shape
    groups, keys = k.shape[1:3]
    rows = []
    for b, h, t in ((b, h, t) for b in range(batch) for h in range(heads) for t in range(keys - queries, keys)):
        g, decay = h // (heads // groups), 1 - 2.0 ** (-5 - h)
        weights = torch.stack([decay ** (t - s) * (q[b, h, t - keys + queries] @ k[b, g, s]) for s in range(t + 1)])
        rows.append((weights[:, None] * v[b, g, : t + 1]).sum(dim=0) / dim**0.5)
    return normed(torch.stack(rows).view(q.shape), attention, case)


REFERENCES = {
    "retention": Reference(
        attend,
        options=({"norm": "none"}, {"norm": "head"}),
        breaks=BREAKS,
    )
}
