"""FNet by its sum: every token and feature of the input, turned by its angle (Lee-Thorp et al. 2021)."""

import torch

from attnbench import Attention, Case
from references.reference import Reference


def attend(attention: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, case: Case) -> torch.Tensor:
    batch, heads, tokens, dim = v.shape
    features = heads * dim
    x = v.transpose(1, 2).reshape(batch, tokens, features)
    n, f = torch.arange(tokens, dtype=v.dtype), torch.arange(features, dtype=v.dtype)
    rows = []
    for i in range(tokens):
        for j in range(features):
            turned = torch.cos(2 * torch.pi * (n[:, None] * i / tokens + f * j / features))
            rows.append((x * turned).sum(dim=(1, 2)))
    out = torch.stack(rows, dim=1).view(batch, tokens, heads, dim).transpose(1, 2)
    return out / (tokens * features) ** 0.5 if case.options["ortho"] else out


REFERENCES = {
    "fnet": Reference(
        attend,
        options=({"ortho": True}, {}),
        breaks={
            "heads": "it transforms the features of all heads together",
            "linear": "it mixes features too, so that no matrix over tokens gives the output",
        },
    )
}
