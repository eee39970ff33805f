"""Relative position representations, a pair at a time (Shaw et al. 2018, equations 3 to 5)."""

import torch

from attnbench import Attention, Case
from references.exact import visible
from references.reference import Reference


def attend(attention: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, case: Case) -> torch.Tensor:
    batch, heads, queries, dim = q.shape
    groups, keys = k.shape[1:3]
    clip, rows = case.options["clip"], []
    for b, h, t in ((b, h, t) for b in range(batch) for h in range(heads) for t in range(queries)):
        g, i, own = h // (heads // groups), keys - queries + t, 0 if case.options["shared"] else h
        seen = [j for j in range(keys) if visible(i, j, case)]
        relative = [max(-clip, min(clip, j - i)) + clip for j in seen]
        weights = (((k[b, g, seen] + attention.keys_HRD[own, relative]) @ q[b, h, t]) / dim**0.5).softmax(dim=0)
        rows.append(weights @ (v[b, g, seen] + attention.values_HRD[own, relative]))
    return torch.stack(rows).view(batch, heads, queries, -1)


REFERENCES = {
    "shaw": Reference(
        attend,
        options=({"clip": 3}, {"clip": 1, "shared": True}, {}),
        breaks={"linear": "it adds learned vectors to the values"},
    )
}
