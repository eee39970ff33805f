"""A case made callable: what it calls, inputs drawn from the seed, and the calls that a pass consists of."""

# B batch, H heads, T queries, E width; the output is out_BHTD, or out_BTE at layer level
from collections.abc import Callable, Iterable
from functools import partial
from itertools import cycle, islice
from typing import Any

import torch

from attnbench.contracts import variant
from attnbench.contracts.case import Case
from attnbench.contracts.record import Job
from attnbench.contracts.variant import InvalidOutput, Unsupported
from attnbench.measure.callee import Attend, Callee
from attnbench.measure.checks import checksum, finite, output_like
from attnbench.measure.decode import tensors_in
from attnbench.plugins import registry

Call = Callable[[], object]
_SETS, _WATCHED = 3, 2
_MEASURED = ("cpu", "cuda")


class Workload:
    """A mechanism with inputs, ready to be called. `sets` are used in turn, so that no cache holds an answer."""

    def __init__(self, case: Case, plugin: Any, *, sets: int = _SETS) -> None:
        _check_measured(case.device)
        self.case, self.callee = case, Callee(case, plugin)
        self.sets = self.callee.draw(sets)
        self._bits = [checksum(*inputs.tensors) for inputs in self.sets]
        self._wanted = [self.callee.wanted(inputs) for inputs in self.sets]
        self._arguments = [self.callee.arguments(inputs) for inputs in self.sets]
        self._unjudged: tuple[object, tuple[Any, ...]] | None = None  # the last watched output, and its arguments
        self._answers: list[int] = []
        self._left: list[tuple[tuple[Any, ...], int]] = []  # a watched call's arguments, and their bits after it
        self._taken = 0

    @classmethod
    def of(cls, job: Job, *, sets: int = _SETS) -> "Workload":
        """Import a job's variant and build it. Raises Unsupported."""
        return cls(job.case, registry.load(job.target), sets=sets)

    @property
    def support(self) -> variant.Support:
        """Give what the mechanism declares."""
        return self.callee.support

    @property
    def attention(self) -> variant.Attention:
        """Give the mechanism itself, without the projections of layer level."""
        return self.callee.attention

    @property
    def differentiates(self) -> bool:
        """Whether the pass computes gradients."""
        return self.case.differentiates

    @property
    def backend(self) -> str:
        """Name the kernel that ran."""
        return variant.backend_of(self.attention)

    def read_by_a_call(self) -> list[torch.Tensor]:
        """List each tensor that a call is given, a state's among them, and each weight; what is tied comes once."""
        given = [*tensors_in(self._arguments[0]), *self.callee.weights]
        return list({id(tensor): tensor for tensor in given}.values())

    def calls(self, count: int) -> Iterable[Call]:
        """Give the next `count` calls of the pass, on the sets in turn; a backward pass's graphs are built here.

        Raises InvalidOutput where one of the first calls gave back what is no attention output.
        """
        self.examine()
        first, self._taken = self._taken, self._taken + count
        attend = self.watch if first < _WATCHED else self.callee.call
        turns = [(first + index) % len(self.sets) for index in range(len(self.sets))]
        if self.case.passes == "backward":
            return [self._call(attend, turn) for turn in islice(cycle(turns), count)]
        return islice(cycle([self._call(attend, turn) for turn in turns]), count)

    def call_on_first(self) -> Call:
        """Give a call of the pass on the first set, whichever the turn is; a backward pass's graph is built here."""
        self.examine()
        return self._call(self.callee.call, 0)

    def watch(self, *arguments: Any) -> torch.Tensor:
        """Call the mechanism, and keep what the first calls give back until it is examined."""
        self.examine()
        out = self.callee.call(*arguments)
        if len(self._answers) < _WATCHED:
            self._unjudged = (out.detach() if isinstance(out, torch.Tensor) else out, arguments)
        return out

    def examine(self) -> None:
        """Examine the last watched output, before a further call may write into the same memory.

        Raises InvalidOutput for a wrong shape, dtype or device, NaN or infinities.
        """
        if self._unjudged is None:
            return
        (out, arguments), self._unjudged = self._unjudged, None
        self._answers.append(checksum(finite(output_like(out, arguments[0]))))
        if self.callee.has_state:
            self._left.append((arguments, checksum(*tensors_in(arguments))))

    def judge(self) -> None:
        """Judge the mechanism by its first calls, once the timing is over.

        Raises InvalidOutput for what `examine` refuses, changed inputs, a state that goes on changing, or one answer to
        two questions.
        """
        self.examine()
        if [checksum(*inputs.tensors) for inputs in self.sets] != self._bits:
            raise InvalidOutput("the mechanism changes its inputs")
        # A first step may fill the next place of a cache; every further step from that state must find it filled so.
        if any(checksum(*tensors_in(arguments)) != bits for arguments, bits in self._left):
            raise InvalidOutput(
                "the state that a step starts from changes with every step, so no two calls are the same"
            )
        if len(set(self._answers)) < len(self._answers):
            raise InvalidOutput("different inputs give the very same output: an answer is kept between calls")

    def _call(self, attend: Attend, turn: int) -> Call:
        if self.case.passes == "backward":
            return partial(self._gradients, attend(*self._arguments[turn]), turn)
        if self.case.passes == "forward-backward":
            return partial(self._forward_backward, attend, turn)
        return partial(attend, *self._arguments[turn])

    def _forward_backward(self, attend: Attend, turn: int) -> tuple[torch.Tensor | None, ...]:
        return self._gradients(attend(*self._arguments[turn]), turn)

    def _gradients(self, out: torch.Tensor, turn: int) -> tuple[torch.Tensor | None, ...]:
        # torch.autograd.grad rather than .backward(): nothing accumulates, and each graph is used once.
        return torch.autograd.grad(out, self._wanted[turn], self.sets[turn].cotangent, allow_unused=True)


def _check_measured(device: str) -> None:
    """Refuse a device for which there is no clock: its calls would be timed before they are done."""
    kind = device.partition(":")[0]
    if kind not in _MEASURED:
        raise Unsupported(f"{kind} is not measured yet (only {' and '.join(_MEASURED)} are)")
