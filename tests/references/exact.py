"""Exact attention, one query at a time (Vaswani et al. 2017, eq. 1)."""

from collections.abc import Callable

import torch

from attnbench import Attention, Case
from references.reference import Reference


def attend(attention: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, case: Case) -> torch.Tensor:
    return softmax_over(q, k, v, lambda i, j: visible(i, j, case))


def softmax_over(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sees: Callable[[int, int], bool]) -> torch.Tensor:
    """Average values by softmax(q . k / sqrt(D)) over the keys j that the query at position i sees."""
    batch, heads, queries, dim = q.shape
    groups, keys = k.shape[1:3]
    rows = []
    for b, h, t in ((b, h, t) for b in range(batch) for h in range(heads) for t in range(queries)):
        g = h // (heads // groups)
        seen = [j for j in range(keys) if sees(keys - queries + t, j)]
        scores = (k[b, g, seen] * q[b, h, t]).sum(dim=1) / dim**0.5
        weights = (scores - scores.max()).exp()
        rows.append((weights[:, None] * v[b, g, seen]).sum(dim=0) / weights.sum())
    return torch.stack(rows).view(batch, heads, queries, -1)


def visible(i: int, j: int, case: Case) -> bool:
    if case.mask.causal and j > i:
        return False
    return case.mask.window is None or abs(i - j) < case.mask.window


REFERENCES = {
    "flash": Reference(attend),
    "flex": Reference(attend, alone="on a CPU it has no gradients and no float64, and compiles for seconds"),
    "ring": Reference(attend, options=({}, {"ranks": 1}, {"ranks": 7}, {"ranks": 64})),
    "sdpa-flash": Reference(attend),
    "sdpa-math": Reference(attend),
    "vanilla": Reference(attend),
}
