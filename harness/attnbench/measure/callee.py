"""What a case calls: the mechanism alone, between projections, or step by step; and the arguments of the call."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace

from attnbench.contracts import variant
from attnbench.contracts.case import Case
from attnbench.contracts.variant import InvalidOutput, Unsupported
from attnbench.measure import captured
from attnbench.measure.inputs import Inputs, Tokens, draw, draw_tokens
from attnbench.measure.layer import Layer, leaves

Attend = Callable[..., torch.Tensor]


class Callee:
    """A plugin built for a case: out = callee.call(*callee.arguments(inputs)).

    `attention` is the mechanism itself; `mechanism` is what the case's level calls: the same, or a layer around it.
    Raises Unsupported.
    """

    def __init__(self, case: Case, plugin: Any) -> None:
        self.case, self.plugin, self.support = case, plugin, variant.support_of(plugin)
        wraps = case.level == "layer" and self.support.level == "core"
        self.attention = variant.build(plugin, replace(case, level="core") if wraps else case)
        self.layer = _layer(case, self.attention, tied=self.support.ties_qk) if wraps else None
        self.mechanism: Any = self.attention if self.layer is None else self.layer
        self.has_state = case.passes == "decode" and variant.has_steps(self.mechanism)
        if case.passes == "decode" and self.support.level == "layer" and not self.has_state:
            raise Unsupported("it starts from tokens and has neither prefill nor step to decode them one by one")
        if isinstance(self.mechanism, torch.nn.Module):  # dropout and the like belong to training
            self.mechanism.train(case.differentiates)
        self.call: Attend = partial(_step, self.mechanism) if self.has_state else self.mechanism

    @property
    def weights(self) -> list[torch.Tensor]:
        """The weights of what the case's level calls."""
        return list(self.mechanism.parameters()) if isinstance(self.mechanism, torch.nn.Module) else []

    def draw(self, sets: int, *, path: str = "") -> tuple[Inputs, ...] | tuple[Tokens, ...]:
        """Draw sets of inputs: tokens at layer level, else queries, keys and values; or read them from a capture."""
        if path:
            return captured.load(self.case, Path(path), sets=sets, tied=self.support.ties_qk)
        if self.case.level == "layer":
            return draw_tokens(self.case, sets=sets)
        return draw(self.case, sets=sets, tied=self.support.ties_qk)

    def arguments(self, inputs: Inputs | Tokens) -> tuple[Any, ...]:
        """Return the arguments of `call`: the inputs' tensors, or to decode with a state the last token and the state.

        Raises InvalidOutput for a state that is not made of tensors, numbers and tuples.
        """
        if not self.has_state:
            return inputs.tensors
        with torch.no_grad():
            state = self.mechanism.prefill(*inputs.history)
        tensors_in(state)
        return *inputs.newest, state

    def compared(self, inputs: Inputs | Tokens) -> dict[str, torch.Tensor]:
        """Return by name the tensors whose gradients are compared: inputs, and at layer level projections."""
        if self.layer is not None and isinstance(inputs, Tokens):
            return leaves(self.layer.projections, inputs)
        return inputs.leaves

    def differentiated(self, inputs: Inputs | Tokens) -> list[torch.Tensor]:
        """Return all tensors that a backward pass differentiates for: inputs and every weight."""
        return [*inputs.leaves.values(), *(weight for weight in self.weights if weight.requires_grad)]

    def copy_weights(self, other: "Callee") -> None:
        """Copy all weights from another callee of the same plugin."""
        if isinstance(self.mechanism, torch.nn.Module) and isinstance(other.mechanism, torch.nn.Module):
            self.mechanism.load_state_dict(other.mechanism.state_dict())


def tensors_in(state: object) -> list[torch.Tensor]:
    """Return the tensors of a state, or of a call's arguments. Raises InvalidOutput for anything else in it."""
    if isinstance(state, torch.Tensor):
        return [state]
    if isinstance(state, tuple):
        return [tensor for part in state for tensor in tensors_in(part)]
    if isinstance(state, int | float):
        return []
    raise InvalidOutput(f"the state holds a {type(state).__name__}; it is made of tensors, numbers and tuples of those")


def _step(mechanism: Any, *arguments: Any) -> torch.Tensor:
    """Return a step's output without the next state: every call starts from the same state."""
    result = mechanism.step(*arguments)
    if not (isinstance(result, tuple) and len(result) == 2):
        raise InvalidOutput(f"step gives a {type(result).__name__}, not (output, state)")
    return result[0]  # type: ignore[no-any-return] # Workload.examine checks what it is


def _layer(case: Case, attention: variant.Attention, *, tied: bool) -> Layer:
    return Layer(case, attention, tied=tied).to(device=case.device, dtype=getattr(torch, case.dtype))
