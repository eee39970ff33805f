"""Reformer's attention spelled out: the keys that each query sees in each round; loops, float64, autograd."""

from collections.abc import Sequence

import torch
from torch import Tensor

from attnbench import Attention, Case
from references.reference import Reference


def attend_variant(attention: Attention, q: Tensor, k: Tensor, v: Tensor, case: Case) -> Tensor:
    """Attend with every head of a built variant, given the buckets that the variant itself computes."""
    del k
    heads = [
        reformer(*tensors, buckets=rounds.tolist(), chunk=attention.options.bucket, causal=case.mask.causal)
        for *tensors, rounds in zip(q.flatten(0, 1), v.flatten(0, 1), attention.buckets(q).flatten(0, 1), strict=True)
    ]
    return torch.stack(heads).view_as(v)


def reformer(qk_ND: Tensor, v_ND: Tensor, buckets: Sequence[Sequence[int]], *, chunk: int, causal: bool) -> Tensor:
    """One head of Kitaev et al. 2020, section 2, given each round's buckets. Differentiable; returns [N, D]."""
    keys = [q / q.norm() for q in qk_ND]
    outputs = []
    for i, query in enumerate(qk_ND):
        heard = [seen(i, of_round, chunk=chunk, causal=causal) for of_round in buckets]
        rounds = [attend(query, [keys[j] for j in js], [v_ND[j] for j in js]) for js in heard if js]
        outputs.append(weigh(rounds) if rounds else v_ND[i])
    return torch.stack(outputs)


def seen(i: int, buckets: Sequence[int], *, chunk: int, causal: bool) -> list[int]:
    """Equation 5, without the token itself: s_j // m is s_i // m or one less, s the rank by (bucket, position)."""
    by_bucket = sorted(range(len(buckets)), key=lambda token: (buckets[token], token))
    place = {token: s for s, token in enumerate(by_bucket)}
    near = [j for j in place if place[i] // chunk - 1 <= place[j] // chunk <= place[i] // chunk]
    return sorted(j for j in near if j != i and not (causal and j > i))


def attend(query: Tensor, keys: list[Tensor], values: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Equation 2 over some keys: the output o, and the logarithm z of the sum that divides it."""
    scores = torch.stack([query @ key for key in keys])
    z = scores.logsumexp(0)
    return sum(((score - z).exp() * value for score, value in zip(scores, values, strict=True)), 0 * values[0]), z


def weigh(rounds: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Equation 8 with N_ij = 1: o = sum over rounds of exp(z_r - z) o_r, where exp(z) is the sum of all exp(z_r)."""
    z = torch.stack([z for _, z in rounds]).logsumexp(0)
    return sum(((z_of_round - z).exp() * o for o, z_of_round in rounds), 0 * rounds[0][0])


REFERENCES = {
    "reformer": Reference(
        attend_variant,
        options=({"rounds": 3, "bucket": 4}, {"rounds": 1, "bucket": 64}),
        breaks={"later": "which earlier tokens are near follows from the sorting of all, later ones too"},
    )
}
