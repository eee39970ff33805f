"""Linformer by its equation, a head at a time: softmax(q (E k)^T / sqrt(D)) (F v) (Wang et al. 2020, eq. 7)."""

import torch

from attnbench import Attention, Case
from references.reference import Reference


def attend(attention: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, case: Case) -> torch.Tensor:
    batch, heads, queries, dim = q.shape
    groups = k.shape[1]
    rows = []
    for b, h in ((b, h) for b in range(batch) for h in range(heads)):
        g = h // (heads // groups)
        short_keys = torch.einsum("ks,sd->kd", _of_group(attention.project_keys, g), k[b, g])
        short_values = torch.einsum("ks,sd->kd", _of_group(attention.project_values, g), v[b, g])
        for t in range(queries):
            weights = (short_keys * q[b, h, t]).sum(dim=1).div(dim**0.5).exp()
            rows.append((weights[:, None] * short_values).sum(dim=0) / weights.sum())
    return torch.stack(rows).view(batch, heads, queries, -1)


def _of_group(projection: torch.Tensor, group: int) -> torch.Tensor:
    return projection[group] if projection.dim() == 3 else projection


REFERENCES = {
    "linformer": Reference(
        attend,
        options=(
            {"k": 6},
            {"k": 3, "sharing": "none"},
            {"k": 64, "sharing": "key-value"},
            {"k": 5, "sharing": "layerwise"},
        ),
        breaks={
            "sums": "its values are mixed by a learned matrix, whose rows sum to anything",
            "signs": "and have either sign",
        },
    )
}
