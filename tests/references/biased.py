"""Exact attention with a number added to each score, one query at a time."""

from collections.abc import Callable

import torch

from attnbench import Case
from references.exact import visible


def softmax_with(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, case: Case, bias: Callable[[int, int, int], torch.Tensor | float]
) -> torch.Tensor:
    """Average values by softmax(q . k / sqrt(D) + bias(h, i, j)) over the keys j that the query at i sees."""
    batch, heads, queries, dim = q.shape
    groups, keys = k.shape[1:3]
    rows = []
    for b, h, t in ((b, h, t) for b in range(batch) for h in range(heads) for t in range(queries)):
        g, i = h // (heads // groups), keys - queries + t
        seen = [j for j in range(keys) if visible(i, j, case)]
        added = torch.stack([torch.as_tensor(bias(h, i, j), dtype=q.dtype) for j in seen])
        weights = ((k[b, g, seen] * q[b, h, t]).sum(dim=1) / dim**0.5 + added).softmax(dim=0)
        rows.append((weights[:, None] * v[b, g, seen]).sum(dim=0))
    return torch.stack(rows).view(batch, heads, queries, -1)
