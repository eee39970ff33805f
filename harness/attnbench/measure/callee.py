"""What a case calls: the mechanism alone, between projections, or step by step, with what it is then called with."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from msgspec.structs import replace

from attnbench.contracts import variant
from attnbench.contracts.case import Case
from attnbench.contracts.variant import Unsupported
from attnbench.measure import decode, layer
from attnbench.measure.inputs import Inputs, Tokens, draw, draw_tokens
from attnbench.measure.layer import Layer

Attend = Callable[..., torch.Tensor]


class Callee:
    """A plugin built for a case: out = callee.call(*callee.arguments(inputs)).

    `attention` is the mechanism itself, `mechanism` what stands at the case's level (a layer around it, or the same).
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
        self.call: Attend = partial(decode.step, self.mechanism) if self.has_state else self.mechanism

    @property
    def weights(self) -> list[torch.Tensor]:
        """Give the weights of what stands at the case's level."""
        return list(self.mechanism.parameters()) if isinstance(self.mechanism, torch.nn.Module) else []

    def draw(self, sets: int) -> tuple[Inputs, ...] | tuple[Tokens, ...]:
        """Draw sets of inputs: tokens at layer level, else queries, keys and values."""
        if self.case.level == "layer":
            return draw_tokens(self.case, sets=sets)
        return draw(self.case, sets=sets, tied=self.support.ties_qk)

    def arguments(self, inputs: Inputs | Tokens) -> tuple[Any, ...]:
        """Give what `call` takes: the inputs' tensors; in decoding with a state the last token, and the state."""
        return decode.arguments(self.mechanism, inputs) if self.has_state else inputs.tensors

    def leaves(self, inputs: Inputs | Tokens) -> dict[str, torch.Tensor]:
        """Give what exact attention has gradients for too, by name: inputs, and at layer level the projections."""
        if self.layer is not None and isinstance(inputs, Tokens):
            return layer.leaves(self.layer.projections, inputs)
        return inputs.leaves

    def wanted(self, inputs: Inputs | Tokens) -> list[torch.Tensor]:
        """Give all that a backward pass differentiates for: inputs and every weight."""
        return [*inputs.leaves.values(), *(weight for weight in self.weights if weight.requires_grad)]

    def take_weights(self, other: "Callee") -> None:
        """Take the values of all weights from another callee of the same plugin."""
        if isinstance(self.mechanism, torch.nn.Module) and isinstance(other.mechanism, torch.nn.Module):
            self.mechanism.load_state_dict(other.mechanism.state_dict())


def _layer(case: Case, attention: variant.Attention, *, tied: bool) -> Layer:
    return Layer(case, attention, tied=tied).to(device=case.device, dtype=getattr(torch, case.dtype))
