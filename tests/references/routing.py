"""Routing attention, a head at a time: clusters, their tokens, and each token's mean (Roy et al. 2021, algorithm 1)."""

import math

import torch

from attnbench import Attention, Case
from references.reference import Reference


def attend(attention: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, case: Case) -> torch.Tensor:
    del k
    batch, heads = q.shape[:2]
    rows = [head(q[b, h], v[b, h], attention.centroids_HCD[h], case) for b in range(batch) for h in range(heads)]
    return torch.stack(rows).view_as(v)


def head(q: torch.Tensor, v: torch.Tensor, centroids: torch.Tensor, case: Case) -> torch.Tensor:
    normal = [(x - x.mean()) / (x.var(correction=0) + 1e-6).sqrt() for x in q]
    outputs: list[list[torch.Tensor]] = [[] for _ in normal]
    for centroid in centroids.to(q.dtype):
        by_product = sorted(range(len(q)), key=lambda i: -float(normal[i].detach() @ centroid))
        members = sorted(by_product[: taken(len(q), len(centroids), case)])
        for i in members:
            seen = [j for j in members if not (case.mask.causal and j > i)]
            weights = torch.stack([normal[i] @ normal[j] for j in seen]).div(math.sqrt(q.shape[-1])).softmax(dim=0)
            outputs[i].append(sum((w * v[j] for w, j in zip(weights, seen, strict=True)), 0 * v[0]))
    return torch.stack([sum(of, 0 * v[0]) / max(1, len(of)) for of in outputs])


def taken(tokens: int, clusters: int, case: Case) -> int:
    return min(tokens, case.options["window"] or math.ceil(tokens / clusters))


REFERENCES = {
    "routing": Reference(
        attend,
        options=({"clusters": 3, "window": 5}, {}, {"clusters": 1, "window": 100}, {"clusters": 30, "window": 4}),
        breaks={
            "later": "which earlier tokens are near follows from the ranking of all, later ones too",
            "sums": "a token that no cluster took is given nothing",
        },
    )
}
