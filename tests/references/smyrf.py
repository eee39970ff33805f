"""SMYRF's attention spelled out: the asymmetric transformations, each round's clusters, loops, float64, autograd."""

import torch
from torch import Tensor

from attnbench import Attention, Case
from references.reference import Reference


def attend_variant(attention: Attention, q: Tensor, k: Tensor, v: Tensor, case: Case) -> Tensor:
    """Attend with every head of a built variant, given the directions that the variant drew."""
    group = q.shape[1] // k.shape[1]
    heads = [
        smyrf(
            q[b, h], k[b, h // group], v[b, h // group], attention.directions_DR.double(), size=case.options["cluster"]
        )
        for b in range(q.shape[0])
        for h in range(q.shape[1])
    ]
    return torch.stack(heads).view_as(q)


def smyrf(q_TD: Tensor, k_SD: Tensor, v_SD: Tensor, directions_DR: Tensor, *, size: int) -> Tensor:
    """One head of Daras et al. 2020. Differentiable; returns [T, D]."""
    seen = [clusters_of(on_sphere(q_TD, k_SD), direction, size=size) for direction in directions_DR.unbind(1)]
    outputs = []
    for t, query in enumerate(q_TD):
        keys = [s for of_round in seen for s in of_round[t]]  # a key that is seen in n rounds counts n times
        weights = torch.stack([query @ k_SD[s] for s in keys]).div(len(query) ** 0.5).exp()
        outputs.append(sum(weight * v_SD[s] for weight, s in zip(weights, keys, strict=True)) / weights.sum())
    return torch.stack(outputs)


def on_sphere(q_TD: Tensor, k_SD: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """F(q) = [q; 0; sqrt(M_Q^2 + M_K^2 - |q|^2)] and G(k) = [k; sqrt(M_Q^2 + M_K^2 - |k|^2); 0]."""
    square = max(q @ q for q in q_TD.detach()) + max(k @ k for k in k_SD.detach())
    zero = torch.zeros(1, dtype=q_TD.dtype)
    queries = [torch.cat([q, zero, (square - q @ q).sqrt().view(1)]) for q in q_TD.detach()]
    keys = [torch.cat([k, (square - k @ k).sqrt().view(1), zero]) for k in k_SD.detach()]
    return queries, keys


def clusters_of(points: tuple[list[Tensor], list[Tensor]], direction: Tensor, *, size: int) -> list[list[int]]:
    """Sort queries and keys along a direction and cut both into as many equal parts: the keys that each query sees."""
    queries, keys = (sorted(range(len(x)), key=lambda i, x=x: float(x[i] @ direction)) for x in points)
    clusters = min(-(-len(keys) // size), len(queries))
    cluster_of = {t: place * clusters // len(queries) for place, t in enumerate(queries)}
    members = [[s for place, s in enumerate(keys) if place * clusters // len(keys) == c] for c in range(clusters)]
    return [members[cluster_of[t]] for t in range(len(queries))]


REFERENCES = {
    "smyrf": Reference(
        attend_variant,
        options=({"rounds": 3, "cluster": 4}, {"rounds": 1, "cluster": 1}, {"rounds": 2, "cluster": 64}),
    )
}
