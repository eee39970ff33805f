"""Gated linear attention token by token: S_t = diag(a_t) S_{t-1} + k_t^T v_t (Yang et al. 2023, section 4.1)."""

import torch

from attnbench import Attention, Case
from references.recurrence import BREAKS, normed
from references.recurrence import attend as by_steps
from references.reference import Reference


def attend(attention: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, case: Case) -> torch.Tensor:
    down, up, bias = attention.gate_down, attention.gate_up, attention.gate_bias
    tau = case.options["temperature"]

    def step(state, key, value, group):
        gate = torch.sigmoid((key @ down[group]) @ up[group] + bias[group, 0]) ** (1 / tau)
        return gate[:, None] * state + key[:, None] * value

    return normed(by_steps(q / q.shape[-1] ** 0.5, k, v, step=step), attention, case)


REFERENCES = {
    "gla": Reference(
        attend,
        options=({"norm": "none"}, {"norm": "head"}, {"norm": "none", "rank": 2, "temperature": 0.1}),
        breaks=BREAKS,
    )
}
