"""Gated DeltaNet token by token (Yang, Kautz, Hatamizadeh, ICLR 2025, eq. 10), states transposed: o_t = q_t S_t."""

import torch

from attnbench import Attention, Case
from references.recurrence import BREAKS, normed, unit
from references.recurrence import attend as by_steps
from references.reference import Reference


def attend(attention: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, case: Case) -> torch.Tensor:
    one = torch.eye(k.shape[-1], dtype=k.dtype)

    def step(state, key, value, group):
        beta = torch.sigmoid(key @ attention.write_weight[group, :, 0])
        pace = (1 + (key @ attention.gate_weight[group, :, 0] + attention.gate_bias[group, 0, 0]).exp()).log()
        gate = (-attention.log_strength[group, 0, 0].exp() * pace).exp()
        f = unit(key, case)
        return gate * (one - beta * f[:, None] * f) @ state + beta * f[:, None] * value

    return normed(by_steps(unit(q, case), k, v, step=step), attention, case)


REFERENCES = {
    "gated-deltanet": Reference(
        attend,
        options=({"norm": "none"}, {"norm": "head"}, {"norm": "none", "activation": "identity"}),
        breaks=BREAKS,
    )
}
