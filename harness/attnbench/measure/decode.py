"""Decoding with a state, as a call like any other: the state is made of all tokens but the last, outside the timer."""

from typing import Any

import torch

from attnbench.contracts.variant import InvalidOutput
from attnbench.measure.inputs import Inputs, Tokens


def arguments(mechanism: Any, inputs: Inputs | Tokens) -> tuple[Any, ...]:
    """Give what `step` is called with for these inputs: the last token, and the state that those before it leave.

    Raises InvalidOutput where the state is not made of tensors, numbers and tuples.
    """
    with torch.no_grad():
        state = mechanism.prefill(*inputs.history)
    tensors_in(state)
    return *inputs.newest, state


def step(mechanism: Any, *given: Any) -> torch.Tensor:
    """Call `step` and give the output alone: the next call goes on from the same state as this one."""
    answer = mechanism.step(*given)
    if not (isinstance(answer, tuple) and len(answer) == 2):
        raise InvalidOutput(f"step gives a {type(answer).__name__}, not (output, state)")
    return answer[0]  # type: ignore[no-any-return] # what it is, is examined with every other output


def tensors_in(state: object) -> list[torch.Tensor]:
    """List the tensors that a state (or a call's arguments) is made of. Raises InvalidOutput for what is no state."""
    if isinstance(state, torch.Tensor):
        return [state]
    if isinstance(state, tuple):
        return [tensor for part in state for tensor in tensors_in(part)]
    if isinstance(state, int | float):
        return []
    raise InvalidOutput(f"the state holds a {type(state).__name__}; it is made of tensors, numbers and tuples of those")
