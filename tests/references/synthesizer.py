"""Synthesizer by its definition, a query at a time: softmax(F(x)) v or softmax(R) v (Tay et al. 2020, section 3)."""

import torch

from attnbench import Attention, Case
from references.reference import Reference


def attend(attention: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, case: Case) -> torch.Tensor:
    batch, heads, queries, _ = q.shape
    groups, keys = v.shape[1:3]
    learned = dict(attention.scores.named_parameters())
    rows = []
    for b, h, t in ((b, h, t) for b in range(batch) for h in range(heads) for t in range(queries)):
        seen = keys - queries + t + 1 if case.mask.causal else keys
        of_head = {name: weight[h] for name, weight in learned.items()}
        scores = SCORES[case.options["form"]](of_head, q[b, h, t], t, keys)[:seen]
        if case.options["dot_product"]:
            scores = scores + k[b, h // (heads // groups), :seen] @ q[b, h, t] / q.shape[3] ** 0.5
        weights = (scores - scores.max()).exp()
        rows.append((weights[:, None] * v[b, h // (heads // groups), :seen]).sum(dim=0) / weights.sum())
    return torch.stack(rows).view(q.shape)


def dense(learned: dict[str, torch.Tensor], q_D: torch.Tensor, t: int, keys: int) -> torch.Tensor:
    hidden = (q_D + learned["first_bias_HD"]).clamp(min=0)
    return (learned["second_HSD"] * hidden).sum(dim=1) + learned["second_bias_HS"]


def factorized_dense(learned: dict[str, torch.Tensor], q_D: torch.Tensor, t: int, keys: int) -> torch.Tensor:
    hidden = (q_D + learned["first_bias_HD"]).clamp(min=0)
    outer = (learned["outer_HAD"] * hidden).sum(dim=1) + learned["outer_bias_HA"]
    inner = (learned["inner_HPD"] * hidden).sum(dim=1) + learned["inner_bias_HP"]
    return torch.stack([a * p for a in outer for p in inner][:keys])


def random(learned: dict[str, torch.Tensor], q_D: torch.Tensor, t: int, keys: int) -> torch.Tensor:
    return learned["scores_HTS"][t]


def factorized_random(learned: dict[str, torch.Tensor], q_D: torch.Tensor, t: int, keys: int) -> torch.Tensor:
    return torch.stack([(learned["queries_HTK"][t] * key).sum() for key in learned["keys_HSK"]])


SCORES = {
    "dense": dense,
    "factorized-dense": factorized_dense,
    "random": random,
    "factorized-random": factorized_random,
}

REFERENCES = {
    "synthesizer": Reference(
        attend,
        options=(
            {"form": "dense"},
            {"form": "factorized-dense"},
            {"form": "random"},
            {"form": "factorized-random", "rank": 3},
            {"form": "random", "dot_product": True},
            {"form": "dense", "dot_product": True},
        ),
    )
}
