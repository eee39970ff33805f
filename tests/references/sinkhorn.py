"""Sparse Sinkhorn attention spelled out: the permutation by plain division, each query by loops; float64, autograd."""

import torch
from torch import Tensor

from attnbench import Attention, Case
from references.reference import Reference


def attend_variant(attention: Attention, q: Tensor, k: Tensor, v: Tensor, case: Case) -> Tensor:
    """Attend with every head of a built variant, given the sorting network that the variant learns."""
    group = q.shape[1] // k.shape[1]
    heads = [
        sinkhorn(q[b, h], k[b, h // group], v[b, h // group], (attention.places_DM, attention.bias_M), case)
        for b in range(q.shape[0])
        for h in range(q.shape[1])
    ]
    return torch.stack(heads).view_as(q)


def sinkhorn(q_TD: Tensor, k_SD: Tensor, v_SD: Tensor, network: tuple[Tensor, Tensor], case: Case) -> Tensor:
    """One head of Tay et al. 2020. Differentiable; returns [T, D]."""
    keys, block, causal = len(k_SD), case.options["block"], case.mask.causal
    members = [range(first, min(first + block, keys)) for first in range(0, keys, block)]
    scores = [(sum(k_SD[s] for s in each) @ network[0] + network[1]) / case.options["temperature"] for each in members]
    by_rows = case.options["balance"] == "softmax"
    shares = rows(scores, causal=causal) if by_rows else permutation(scores, case.options["iterations"], causal=causal)
    outputs = []
    for t, query in enumerate(q_TD, start=keys - len(q_TD)):
        place = t // block
        seen = [(k_SD[s], v_SD[s]) for s in members[place] if not (causal and s > t)]
        if not causal or place > 0:
            given = ((k_SD, v_SD), not by_rows)
            seen += [mixture(shares, place, c, members, given) for c in range(len(members[0]))]
        weights = [(query @ key / len(query) ** 0.5).exp() for key, _ in seen]
        outputs.append(sum(w * value for w, (_, value) in zip(weights, seen, strict=True)) / sum(weights))
    return torch.stack(outputs)


def permutation(scores: list[Tensor], iterations: int, *, causal: bool) -> dict[tuple[int, int], Tensor]:
    """Return exp(scores) with rows, then columns divided by their sums; causally i < j only, row sums ending at j."""
    blocks = range(len(scores))
    share = {(i, j): scores[i][j].exp() for i in blocks for j in blocks if i < j or not causal}
    for _ in range(iterations):
        share = {
            (i, j): x / sum(share[i, other] for other in blocks if (i, other) in share and not (causal and other > j))
            for (i, j), x in share.items()
        }
        share = {
            (i, j): x / sum(share[other, j] for other in blocks if (other, j) in share) for (i, j), x in share.items()
        }
    return share


def rows(scores: list[Tensor], *, causal: bool) -> dict[tuple[int, int], Tensor]:
    """Return exp(scores) with rows divided by their sums, once; causally i < j only."""
    blocks = range(len(scores))
    share = {(i, j): scores[i][j].exp() for i in blocks for j in blocks if i < j or not causal}
    return {(i, j): x / sum(share[i, other] for other in blocks if (i, other) in share) for (i, j), x in share.items()}


def mixture(shares, place: int, c: int, members, given: tuple[tuple[Tensor, Tensor], bool]) -> tuple[Tensor, Tensor]:
    """Return position c of the blocks sorted to a place: a mixture of those that have such a position.

    Their shares are made to sum to one only where those of whole blocks do.
    """
    kv, sums_to_one = given
    parts = {i: shares[i, place] for i, block in enumerate(members) if (i, place) in shares and c < len(block)}
    whole = sum(parts.values()) if sums_to_one else 1
    mix_k, mix_v = (sum(share / whole * x[members[i][c]] for i, share in parts.items()) for x in kv)
    return mix_k, mix_v


REFERENCES = {
    "sinkhorn": Reference(
        attend_variant,
        options=(
            {"block": 4},
            {"block": 3, "iterations": 1, "temperature": 2.0},
            {"block": 1, "iterations": 2},
            {"block": 4, "balance": "softmax", "temperature": 1.0},
            {"block": 64},
        ),
    )
}
