"""A case ready to be called: its mechanism, inputs drawn from the seed, and the calls of its pass."""

# B batch, H heads, T queries, E width; the output is out_BHTD, or out_BTE at layer level
from collections.abc import Callable, Iterable
from functools import partial
from itertools import cycle, islice
from random import Random
from typing import Any

import torch

from attnbench.contracts import variant
from attnbench.contracts.case import Case
from attnbench.contracts.record import Job
from attnbench.contracts.variant import InvalidOutput, Unsupported
from attnbench.measure.callee import Attend, Callee, tensors_in
from attnbench.measure.checks import checksum, finite, output_like
from attnbench.plugins import registry

Call = Callable[[], object]
_SETS, _WATCHED = 3, 2
_MEASURED = ("cpu", "cuda")


class Workload:
    """A mechanism with inputs, ready to be called. `sets` are used in turn, so that no cache holds a result.

    The outputs of the first calls are watched: examined, and judged after the timing.
    """

    def __init__(self, case: Case, plugin: Any, *, sets: int = _SETS, inputs_path: str = "") -> None:
        _check_measured(case.device)
        self.case, self.callee = case, Callee(case, plugin)
        self.support, self.attention = self.callee.support, self.callee.attention
        self.differentiates = case.differentiates
        self.sets = self.callee.draw(sets, path=inputs_path)
        self._checksums = [checksum(*inputs.tensors) for inputs in self.sets]
        self._differentiated = [self.callee.differentiated(inputs) for inputs in self.sets]
        self._arguments = [self.callee.arguments(inputs) for inputs in self.sets]
        self._unexamined: tuple[object, tuple[Any, ...]] | None = None  # the last watched output, and its arguments
        self._outputs: list[int] = []  # checksums of watched outputs
        self._states: list[tuple[tuple[Any, ...], int]] = []  # a watched call's arguments, and their checksum after it
        self._taken, self._turn, self._samples = 0, 0, 0
        self._random = Random()
        self._is_flat = False  # whether the first output is one number throughout, as after a projection of zeros
        self.returned: tuple[object, object] = (
            None,
            None,
        )  # what the first call returned, and a copy of it then
        self.kept: tuple[object, int] = (None, 0)  # what one of the timed calls returned, and the set that it was of

    @classmethod
    def of(cls, job: Job, *, sets: int = _SETS) -> "Workload":
        """Return the workload of a job, with its variant imported and built. Raises Unsupported."""
        return cls(job.case, registry.load(job.target), sets=sets, inputs_path=job.inputs_path)

    @property
    def backend(self) -> str:
        """The name of the kernel that ran."""
        return variant.backend_of(self.attention)

    @property
    def input_bytes(self) -> int:
        """The bytes of all sets of inputs and of their states; memory that tensors share counts once."""
        inputs = [tensor for each in self.sets for tensor in (*each.tensors, each.cotangent)]
        storages = [tensor.untyped_storage() for tensor in (*inputs, *tensors_in(tuple(self._arguments)))]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    def read_by_a_call(self) -> list[torch.Tensor]:
        """Return the tensors of a call's arguments, a state's among them, and the weights; a tied tensor once."""
        tensors = [*tensors_in(self._arguments[0]), *self.callee.weights]
        return list({id(tensor): tensor for tensor in tensors}.values())

    def calls(self, count: int) -> Iterable[Call]:
        """Return the next `count` calls of the pass, on the sets in turn; a backward pass's graphs are built here.

        Raises InvalidOutput if the last watched call did not return an attention output.
        """
        self.examine()
        first, self._taken = self._taken, self._taken + count
        self._turn = (self._taken - 1) % len(self.sets)
        attend = self.watch if first < _WATCHED else self.callee.call
        turns = [(first + index) % len(self.sets) for index in range(len(self.sets))]
        if self.case.passes == "backward":
            return [self._call(attend, turn) for turn in islice(cycle(turns), count)]
        return islice(cycle([self._call(attend, turn) for turn in turns]), count)

    def keep(self, out: object) -> None:
        """Keep a copy of what the last call returned, or of what an earlier one did: each with the same chance.

        Copied at once, so that what a thread has yet to write is not in it.
        """
        self._samples += 1
        if not self._random.randrange(self._samples):
            self.kept = (_copied(out), self._turn)
        if self._samples == 1:
            self.returned = (out, self.kept[0])

    def call_on_first(self) -> Call:
        """Return a call of the pass on the first set, out of turn; a backward pass's graph is built here."""
        self.examine()
        return self._call(self.callee.call, 0)

    def call_on(self, turn: int) -> Call:
        """Return calls of the pass on one of the sets, out of turn; a backward pass's graph is built by each."""
        self.examine()

        def call() -> object:
            return self._call(self.callee.call, turn)()

        return call

    def watch(self, *arguments: Any) -> torch.Tensor:
        """Call the mechanism, and keep the output of one of the first calls until it is examined."""
        self.examine()
        out = self.callee.call(*arguments)
        if len(self._outputs) < _WATCHED:
            self._unexamined = (out.detach() if isinstance(out, torch.Tensor) else out, arguments)
        return out

    def examine(self) -> None:
        """Examine the last watched output, before another call can overwrite its memory.

        Raises InvalidOutput for a wrong shape, dtype or device, NaN or infinities.
        """
        if self._unexamined is None:
            return
        (out, arguments), self._unexamined = self._unexamined, None
        checked = finite(output_like(out, arguments[0]))
        if not self._outputs:
            self._is_flat = bool((checked == checked.flatten()[:1]).all())
        self._outputs.append(checksum(checked))
        if self.callee.has_state:
            self._states.append((arguments, checksum(*tensors_in(arguments))))

    def judge(self) -> None:
        """Judge the mechanism by its first calls, after the timing.

        Raises InvalidOutput for what `examine` refuses, for changed inputs, for a state that every step changes, and
        for equal outputs of different inputs.
        """
        self.examine()
        if [checksum(*inputs.tensors) for inputs in self.sets] != self._checksums:
            raise InvalidOutput("the mechanism changes its inputs")
        # A first step may fill the next position of a cache; repeating the step must leave it as it then is.
        if any(checksum(*tensors_in(arguments)) != bits for arguments, bits in self._states):
            raise InvalidOutput(
                "the state that a step starts from changes with every step, so no two calls are the same"
            )
        if len(set(self._outputs)) < len(self._outputs) and not self._is_flat:
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
        return torch.autograd.grad(out, self._differentiated[turn], self.sets[turn].cotangent, allow_unused=True)


def _copied(out: object) -> object:
    if isinstance(out, tuple):
        return tuple(map(_copied, out))
    return out.detach().clone() if type(out) is torch.Tensor else out


def _check_measured(device: str) -> None:
    """Raise Unsupported for a device without a clock here: its calls would be timed before they are done."""
    kind = device.partition(":")[0]
    if kind not in _MEASURED:
        raise Unsupported(f"{kind} is not measured yet (only {' and '.join(_MEASURED)} are)")
