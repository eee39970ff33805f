"""Recurrences token by token: a state for each head, and the norm of a head's output."""

from collections.abc import Callable

import torch

from attnbench import Attention, Case
from references.reference import Law

# (state, k, v, group) -> the state after the token, for the key/value head that is that group
Step = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, step: Step) -> torch.Tensor:
    """Read the state with each query after its own token: o = q S, S [D, D] being zeros before the first."""
    batch, heads, queries, dim = q.shape
    groups, keys = k.shape[1:3]
    rows = []
    for b, h in ((b, h) for b in range(batch) for h in range(heads)):
        g, state = h // (heads // groups), q.new_zeros(dim, dim)
        for t in range(keys):
            state = step(state, k[b, g, t], v[b, g, t], g)
            if t >= keys - queries:
                rows.append(q[b, h, t - keys + queries] @ state)
    return torch.stack(rows).view(q.shape)


def normed(out: torch.Tensor, attention: Attention, case: Case) -> torch.Tensor:
    """Divide each head's output by its root mean square, times what is learned, where the case asks for it."""
    if case.options["norm"] == "none":
        return out
    scale = 1 if attention.norm_scale is None else attention.norm_scale
    return out / (out.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * scale


def unit(x: torch.Tensor, case: Case) -> torch.Tensor:
    """Return SiLU(x), or x, divided by its length."""
    f = x * torch.sigmoid(x) if case.options["activation"] == "silu" else x
    return f / (f.square().sum(dim=-1, keepdim=True) + 1e-6).sqrt()


BREAKS: dict[Law, str] = {
    "sums": "products of queries and keys are not divided by their sum",
    "signs": "and have either sign, and any size",
}
