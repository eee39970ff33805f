"""Each mechanism's formulation, slow and plain, against which the real one is held.

A reference is `attend(attention, q_BHTD, k_BGSD, v_BGSD, case) -> out_BHTD`: loops over batch, head and query, in the
dtype of its inputs (float64 in the laws), differentiable. `attention` is the built variant, for its parameters only.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

from attnbench import Attention, Case
from attnbench.case import Option
from references import exact, linear, linformer, reformer, sparse

Attend = Callable[[Attention, torch.Tensor, torch.Tensor, torch.Tensor, Case], torch.Tensor]


class Reference(NamedTuple):
    """A formulation, and sets of options with which the laws' short sequences are long; the first serves every law."""

    attend: Attend
    options: tuple[Mapping[str, Option], ...] = ({},)


REFERENCES: dict[str, Reference] = {
    "flash": Reference(exact.attend),
    "linear": Reference(linear.attend),
    "linformer": Reference(
        linformer.attend, ({"k": 6}, {"k": 3, "sharing": "none"}, {"k": 64, "sharing": "key-value"})
    ),
    "reformer": Reference(reformer.attend_variant, ({"rounds": 3, "bucket": 4}, {"rounds": 1, "bucket": 64})),
    "sparse": Reference(
        sparse.attend,
        (
            {"block": 4},
            {"block": 4, "globals": 2, "neighbours": 0},
            {"block": 3, "globals": 0, "neighbours": 2},
            {"block": 1, "globals": 1, "neighbours": 1},
            {"block": 64},
        ),
    ),
    "vanilla": Reference(exact.attend),
}
