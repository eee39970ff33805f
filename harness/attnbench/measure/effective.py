"""The effective attention matrix of any mechanism that is linear in V, read from its calls alone."""

# B batch, H heads, G key/value heads, T queries, S keys, R chosen query rows, C columns of a block, D head dimension
import math
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from attnbench.contracts.case import seed_for
from attnbench.contracts.variant import Attention
from attnbench.measure.failure import LeftOut
from attnbench.measure.inputs import Inputs, Tokens

Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

_LONGEST_S = 5.0
_STORED = 4  # roundings of a result in its own dtype


def effective_matrix(
    attention: Attention, tensors: Tensors, *, rows_R: torch.Tensor | None = None, seed: int = 0
) -> torch.Tensor:
    """Return A_BHRS with out = A V for the chosen query rows (default: all), in the mechanism's dtype.

    `tensors` are q_BHTD, k_BGSD (q itself where they are tied) and v_BGSD. Costs ceil(S / D) + 1 calls. Raises LeftOut.
    """
    return torch.cat(list(column_blocks(attention, tensors, rows_R=rows_R, seed=seed)), dim=-1)


@torch.no_grad()
def column_blocks(
    attention: Attention, tensors: Tensors, *, rows_R: torch.Tensor | None = None, seed: int = 0
) -> Iterator[torch.Tensor]:
    """Yield the columns of `effective_matrix` from left to right, A_BHRC with C = D (the last block may be narrower).

    V is set to columns of the identity, D at a time and in every head at once, with the random state reset before each
    call. After the last block, raises LeftOut if A V differs from the mechanism's own output beyond rounding: the
    columns are then meaningless.
    """
    q_BHTD, k_BGSD, v_BGSD = tensors
    attend = repeatable(attention, seed=seed)
    rows = torch.arange(q_BHTD.shape[2], device=q_BHTD.device) if rows_R is None else rows_R
    own_BHRD = attend(*tensors)[:, :, rows].double()
    product_BHRD = torch.zeros_like(own_BHRD)
    group = q_BHTD.shape[1] // v_BGSD.shape[1]
    keys, width = v_BGSD.shape[2:]
    for first in range(0, keys, width):
        columns = torch.arange(first, min(first + width, keys), device=v_BGSD.device)
        identity_BGSD = torch.zeros_like(v_BGSD)
        identity_BGSD[:, :, columns, columns - first] = 1
        block_BHRC = attend(q_BHTD, k_BGSD, identity_BGSD)[:, :, rows, : len(columns)]
        values_BHCD = v_BGSD[:, :, columns].double().repeat_interleave(group, dim=1)
        product_BHRD += block_BHRC.double() @ values_BHCD
        yield block_BHRC
    _check_linear(product_BHRD, own_BHRD, bound=rounding(v_BGSD.dtype, keys))


def calls_for(keys: int, head_dim: int) -> int:
    """Return the number of calls that reading a matrix takes: one a block, and one for the mechanism's own output."""
    return -(-keys // head_dim) + 1


def at_core(inputs: Inputs | Tokens) -> Tensors:
    """Return queries, keys and values. Raises LeftOut at layer level, where the inputs are tokens."""
    if isinstance(inputs, Tokens):
        raise LeftOut("queries, keys and values are asked for at level core only")
    return inputs.q_BHTD, inputs.k_BGSD, inputs.v_BGSD


def check_time(*, calls: int, call_s: float) -> None:
    """Raise LeftOut if so many calls would exceed the time limit of a metric, 5 s."""
    if calls * call_s > _LONGEST_S:
        raise LeftOut(f"it needs {calls} calls, and one takes {call_s:.2g} s")


def within_time(attention: Attention) -> Attention:
    """Wrap a mechanism so that calls raise LeftOut after the time limit of a metric, counted from now."""
    started = time.perf_counter()

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        if time.perf_counter() - started > _LONGEST_S:
            raise LeftOut(f"its calls took longer than {_LONGEST_S:g} s")
        return attention(q, k, v)

    return attend


def repeatable(attention: Callable[..., torch.Tensor], *, seed: int) -> Callable[..., torch.Tensor]:
    """Wrap a mechanism so that every call starts from the same random state (torch, numpy, Python) and changes none."""
    call_seed = seed_for(seed, "calls")

    def attend(*arguments: Any) -> torch.Tensor:
        states = random.getstate(), np.random.get_state()  # noqa: NPY002 - a plugin may draw from the global one
        try:
            with torch.random.fork_rng(devices=[arguments[0].device] if arguments[0].is_cuda else []):
                torch.manual_seed(call_seed)
                random.seed(call_seed)
                np.random.seed(call_seed % 2**32)  # noqa: NPY002
                return attention(*arguments)
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002

    return attend


def rounding(dtype: torch.dtype, keys: int) -> float:
    """Return the relative difference that rounding explains between two computations of one result in its dtype."""
    return _STORED * torch.finfo(dtype).eps + 2 * summation(dtype, keys)


def summation(dtype: torch.dtype, terms: int) -> float:
    """Return the expected relative error of a sum of so many terms, added one after another in float32 or wider.

    Independent roundings add up as the square root of their number (Higham and Mary 2019, "A new approach to
    probabilistic rounding error analysis").
    """
    wide = torch.promote_types(dtype, torch.float32)
    return math.sqrt(terms) * torch.finfo(wide).eps / 2


def _check_linear(product: torch.Tensor, own: torch.Tensor, *, bound: float) -> None:
    error = float((product - own).norm() / own.norm().clamp(min=torch.finfo(own.dtype).tiny))
    if not error <= bound:
        raise LeftOut(
            f"it is not linear in V, or draws anew at every call: A V differs from its output by {error:.2g}, "
            f"and rounding explains {bound:.2g}"
        )
