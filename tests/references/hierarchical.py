"""Hierarchical attention by asking of each pair at which level it meets (Zhu and Soricut 2021)."""

from functools import partial

import torch

from attnbench import Attention, Case
from references.reference import Reference


def attend(attention: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, case: Case) -> torch.Tensor:
    batch, heads, positions, dim = q.shape
    rows = []
    for b, h, i in ((b, h, i) for b in range(batch) for h in range(heads) for i in range(positions)):
        g = h // (heads // k.shape[1])
        seen = range(i + 1 if case.mask.causal else positions)
        scores = []
        for j in seen:
            level = meeting(i, j, block=case.options["block"])
            of_level = partial(cluster, level=level)
            query = q[b, h, of_level(i)[0]] if case.mask.causal else mean(q[b, h], of_level(i))
            scores.append((query * mean(k[b, g], of_level(j))).sum() / dim**0.5)
        weights = torch.stack(scores).sub(max(scores)).exp()
        rows.append((weights[:, None] * v[b, g, : len(seen)]).sum(dim=0) / weights.sum())
    return torch.stack(rows).view(batch, heads, positions, -1)


def meeting(i: int, j: int, *, block: int) -> int:
    """Return the lowest level at which the blocks of two positions are the same or neighbours."""
    level = 0
    while abs(i // (block * 2**level) - j // (block * 2**level)) > 1:
        level += 1
    return level


def cluster(i: int, *, level: int) -> range:
    first = i // 2**level * 2**level
    return range(first, first + 2**level)


def mean(x: torch.Tensor, members: range) -> torch.Tensor:
    return x[members.start : members.stop].mean(dim=0)


REFERENCES = {"hierarchical": Reference(attend, options=({"block": 2}, {"block": 4}, {"block": 6}, {}))}
