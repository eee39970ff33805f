"""The mask leak: whether an output depends on tokens that the mask hides, later ones or those outside the window."""

# B batch, H heads, G key/value heads, T queries, S keys, D head dimension
import math
from collections.abc import Iterator
from itertools import islice

import torch

from attnbench.contracts.case import Mask, seed_for
from attnbench.contracts.variant import Attention
from attnbench.measure.effective import Tensors, at_core, check_time, repeatable, rounding, within_time
from attnbench.measure.failure import LeftOut
from attnbench.measure.reference import visible
from attnbench.measure.workload import Workload

_POSITIONS = 3
_CALLS = _POSITIONS + 2


def inspect(workload: Workload, *, call_s: float) -> dict[str, float]:
    """Return mask_leak, or nothing where there is no mask. `call_s` is the duration of a call. Raises LeftOut."""
    case, (own, other) = workload.case, map(at_core, workload.sets)
    if case.mask == Mask():
        return {}
    check_time(calls=_CALLS, call_s=call_s)
    return {"mask_leak": mask_leak(within_time(workload.attention), own, other, mask=case.mask, seed=case.seed)}


def mask_leak(attention: Attention, tensors: Tensors, others: Tensors, *, mask: Mask, seed: int) -> float:
    """Return the largest change of an output row when the tokens that the mask hides from it become those of `others`.

    It is relative to the root mean square of the rows' norms; 0 for a strict mechanism, or rounding on a device that
    adds in any order. A few query rows are drawn from the seed, with a call for each. Without a window all rows before
    the drawn one are compared as well: the tokens hidden from it are hidden from them.

    The mechanism need not be linear, and its weights on hidden tokens may all be zero: one whose later tokens only
    choose which earlier ones are attended to is detected too. Raises LeftOut.
    """
    attend = repeatable(attention, seed=seed)
    own_BHTD = _output(attend, tensors)
    scale = math.sqrt(float(own_BHTD.square().sum(-1).mean())) or 1.0
    noise = _largest(_output(attend, tensors) - own_BHTD) / scale
    if not noise <= rounding(tensors[0].dtype, tensors[1].shape[2]):
        raise LeftOut(f"equal calls differ by {noise:.2g}: it draws anew at every call")
    changes = [0.0]
    for row, hidden_S in islice(_rows_with_hidden_keys(tensors, mask, seed=seed), _POSITIONS):
        compared = slice(row, row + 1) if mask.window is not None else slice(0, row + 1)
        changed_BHTD = _output(attend, _replaced(tensors, others, hidden_S))
        changes.append(_largest((changed_BHTD - own_BHTD)[:, :, compared]) / scale)
    return max(changes, key=lambda change: (math.isnan(change), change))


def _rows_with_hidden_keys(tensors: Tensors, mask: Mask, *, seed: int) -> Iterator[tuple[int, torch.Tensor]]:
    queries, keys = tensors[0].shape[2], tensors[1].shape[2]
    order = torch.randperm(queries, generator=torch.Generator().manual_seed(seed_for(seed, "leaks")))
    for row in order:
        hidden_S = ~visible(mask, row[None], queries=queries, keys=keys)[0]
        if hidden_S.any():
            yield int(row), hidden_S.to(tensors[0].device)


def _replaced(tensors: Tensors, others: Tensors, hidden_S: torch.Tensor) -> Tensors:
    """Replace whole hidden tokens: their keys and values, and the queries at the same positions."""
    hidden_T = hidden_S[len(hidden_S) - tensors[0].shape[2] :]
    q = _mixed(tensors[0], others[0], hidden_T)
    k = q if tensors[1] is tensors[0] else _mixed(tensors[1], others[1], hidden_S)
    return q, k, _mixed(tensors[2], others[2], hidden_S)


def _mixed(x_BHND: torch.Tensor, other_BHND: torch.Tensor, hidden_N: torch.Tensor) -> torch.Tensor:
    mixed = torch.where(hidden_N[:, None], other_BHND.detach(), x_BHND.detach())
    return mixed.requires_grad_(x_BHND.requires_grad)  # with gradients a mechanism may choose another kernel


def _output(attend: Attention, tensors: Tensors) -> torch.Tensor:
    with torch.set_grad_enabled(any(tensor.requires_grad for tensor in tensors)):
        return attend(*tensors).detach().double()


def _largest(difference_BHTD: torch.Tensor) -> float:
    return float(difference_BHTD.norm(dim=-1).max())
