"""MoBA, one query at a time: its own block and the best of the others by q . mean(k) (Lu et al. 2025, eqs. 2 to 6)."""

import torch

from attnbench import Attention, Case
from references.reference import Reference


def attend(attention: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, case: Case) -> torch.Tensor:
    batch, heads, queries, dim = q.shape
    groups, keys = k.shape[1:3]
    rows = []
    for b, h, t in ((b, h, t) for b in range(batch) for h in range(heads) for t in range(queries)):
        g = h // (heads // groups)
        seen = seen_by(keys - queries + t, q[b, h, t].detach(), k[b, g].detach(), case)
        weights = ((k[b, g, seen] * q[b, h, t]).sum(dim=1) / dim**0.5).softmax(dim=0)
        rows.append((weights[:, None] * v[b, g, seen]).sum(dim=0))
    return torch.stack(rows).view(batch, heads, queries, -1)


def seen_by(i: int, query: torch.Tensor, keys: torch.Tensor, case: Case) -> list[int]:
    block, own = case.options["block"], i // case.options["block"]
    members = [range(start, min(start + block, len(keys))) for start in range(0, len(keys), block)]
    others = [n for n in range(len(members)) if (n < own if case.mask.causal else n != own)]
    others.sort(key=lambda n: -float(query @ keys[members[n]].mean(dim=0)))
    chosen = [own, *others[: case.options["topk"] - 1]]
    return sorted(j for n in chosen for j in members[n] if not (case.mask.causal and j > i))


REFERENCES = {
    "moba": Reference(
        attend,
        options=(
            {"block": 4, "topk": 2},
            {"block": 3, "topk": 4},
            {"block": 1, "topk": 3},
            {"block": 5, "topk": 1},
            {"block": 2, "topk": 100},
            {},
        ),
    )
}
