"""Talking-heads attention, a pair of heads at a time (Shazeer et al. 2020)."""

import torch

from attnbench import Attention, Case
from references.exact import visible
from references.reference import Reference


def attend(attention: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, case: Case) -> torch.Tensor:
    batch, heads, queries, dim = q.shape
    groups, keys = k.shape[1:3]
    of = [h // (heads // groups) for h in range(heads)]
    rows = []
    for b, t in ((b, t) for b in range(batch) for t in range(queries)):
        seen = [j for j in range(keys) if visible(keys - queries + t, j, case)]
        scores = [k[b, of[h], seen] @ q[b, h, t] / dim**0.5 for h in range(heads)]
        mixed = [sum(scores[g] * attention.mix_scores[g, h] for g in range(heads)) for h in range(heads)]
        weights = [(x - x.max()).exp() / (x - x.max()).exp().sum() for x in mixed]
        last = [sum(weights[g] * attention.mix_weights[g, h] for g in range(heads)) for h in range(heads)]
        rows.append(torch.stack([last[h] @ v[b, of[h], seen] for h in range(heads)]))
    return torch.stack(rows).view(batch, queries, heads, dim).transpose(1, 2)


REFERENCES = {
    "talking-heads": Reference(
        attend,
        breaks={
            "heads": "the scores and the weights of all heads are mixed",
            "sums": "a head's weights are learned sums of all heads' weights",
            "signs": "and these may be below zero",
        },
    )
}
