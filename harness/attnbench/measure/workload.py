"""A case made callable: the built mechanism, inputs drawn from the seed, and the calls that a pass consists of."""

# B batch, H heads, G key/value heads, T queries, S keys, D head dimension
import math
from collections.abc import Callable, Iterable
from functools import partial
from itertools import cycle, islice
from typing import Any

import torch
from msgspec import Struct

from attnbench import registry, variant
from attnbench.case import Case, seed_for
from attnbench.record import Job
from attnbench.variant import Attention, InvalidOutput, Unsupported

Call = Callable[[], object]
_SETS, _WATCHED = 3, 2
_MEASURED = ("cpu", "cuda")
_ROW_WEIGHT, _COLUMN_WEIGHT = 0x1E3779B97F4A7C15, 0x3F58476D1CE4E5B9  # odd: a product with them loses no bit


class Inputs(Struct, frozen=True, kw_only=True):
    """Queries, keys, values, and the cotangent that a backward pass starts from."""

    q_BHTD: torch.Tensor
    k_BGSD: torch.Tensor
    v_BGSD: torch.Tensor
    grad_BHTD: torch.Tensor

    @property
    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Give what the mechanism is called with."""
        return self.q_BHTD, self.k_BGSD, self.v_BGSD

    @property
    def tied(self) -> bool:
        """Whether keys and queries are one tensor, with one gradient."""
        return self.k_BGSD is self.q_BHTD

    @property
    def distinct(self) -> tuple[torch.Tensor, ...]:
        """Give each tensor that has a gradient of its own: q, k and v, or q and v where they are tied."""
        return (self.q_BHTD, self.v_BGSD) if self.tied else self.tensors


class Workload:
    """A mechanism with inputs, ready to be called. `sets` are used in turn, so that no cache holds an answer."""

    def __init__(self, case: Case, plugin: Any, *, sets: int = _SETS) -> None:
        _check_measured(case.device)
        self.case = case
        self.support = variant.support_of(plugin)
        self.attention = variant.build(plugin, case)
        self.sets = tuple(draw(case, index, tied=self.support.ties_qk) for index in range(sets))
        self._wanted = [[*inputs.distinct, *_parameters(self.attention)] for inputs in self.sets]
        self._bits = [checksum(*inputs.tensors) for inputs in self.sets]
        self._unjudged: tuple[object, torch.Tensor] | None = None  # the last watched output, and its queries
        self._answers: list[int] = []
        self._taken = 0

    @classmethod
    def of(cls, job: Job, *, sets: int = _SETS) -> "Workload":
        """Import a job's variant and build it. Raises Unsupported."""
        return cls(job.case, registry.load(job.target), sets=sets)

    @property
    def differentiates(self) -> bool:
        """Whether the pass computes gradients."""
        return self.case.passes in ("backward", "forward-backward")

    @property
    def backend(self) -> str:
        """Name the kernel that ran."""
        return variant.backend_of(self.attention)

    def calls(self, count: int) -> Iterable[Call]:
        """Give the next `count` calls of the pass, on the sets in turn; a backward pass's graphs are built here.

        Raises InvalidOutput where one of the first calls gave back what is no attention output.
        """
        self.examine()
        first, self._taken = self._taken, self._taken + count
        attend = self.watch if first < _WATCHED else self.attention
        turns = [(first + index) % len(self.sets) for index in range(len(self.sets))]
        if self.case.passes == "backward":
            return [self._backward(attend, turn) for turn in islice(cycle(turns), count)]
        if self.case.passes == "forward-backward":
            calls: list[Call] = [partial(self._forward_backward, attend, turn) for turn in turns]
        else:
            calls = [partial(attend, *self.sets[turn].tensors) for turn in turns]
        return islice(cycle(calls), count)

    def watch(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Call the mechanism, and keep what the first calls give back until it is examined."""
        self.examine()
        out = self.attention(*tensors)
        if len(self._answers) < _WATCHED:
            self._unjudged = (out.detach() if isinstance(out, torch.Tensor) else out, tensors[0])
        return out

    def examine(self) -> None:
        """Examine the last watched output, before a further call may write into the same memory.

        Raises InvalidOutput for a wrong shape, dtype or device, NaN or infinities.
        """
        if self._unjudged is None:
            return
        (out, queries_BHTD), self._unjudged = self._unjudged, None
        self._answers.append(checksum(_validated(out, queries_BHTD)))

    def judge(self) -> None:
        """Judge the mechanism by its first calls, once the timing is over.

        Raises InvalidOutput for what `examine` refuses, changed inputs, or one answer to two questions.
        """
        self.examine()
        if [checksum(*inputs.tensors) for inputs in self.sets] != self._bits:
            raise InvalidOutput("the mechanism changes its inputs")
        if len(set(self._answers)) < len(self._answers):
            raise InvalidOutput("different inputs give the very same output: an answer is kept between calls")

    def _backward(self, attend: Attention, turn: int) -> Call:
        return partial(self._gradients, attend(*self.sets[turn].tensors), turn)

    def _forward_backward(self, attend: Attention, turn: int) -> tuple[torch.Tensor | None, ...]:
        return self._gradients(attend(*self.sets[turn].tensors), turn)

    def _gradients(self, out_BHTD: torch.Tensor, turn: int) -> tuple[torch.Tensor | None, ...]:
        # torch.autograd.grad rather than .backward(): nothing accumulates, and each graph is used once.
        return torch.autograd.grad(out_BHTD, self._wanted[turn], self.sets[turn].grad_BHTD, allow_unused=True)


def draw(case: Case, index: int, *, tied: bool) -> Inputs:
    """Draw set number `index` of a case's inputs from its seed: the same numbers on every device and for every variant.

    With `tied`, keys are the queries themselves (a mechanism that shares them).
    """
    shape = case.shape
    # A stream of the inputs' own: from the bare seed a mechanism's weights would be the first queries, bit for bit.
    generator = torch.Generator().manual_seed(seed_for(case.seed, "inputs", index))
    queries = (shape.batch, shape.heads, shape.seq_q, shape.head_dim)
    keys = (shape.batch, shape.kv_heads, shape.seq_k, shape.head_dim)
    grows = case.passes in ("backward", "forward-backward")
    q, k, v = (_normal(size, generator, case) for size in (queries, keys, keys))
    grad = _normal(queries, generator, case) if grows else torch.zeros_like(q[:0])
    for tensor in (q, k, v):
        tensor.requires_grad_(grows)
    return Inputs(q_BHTD=q, k_BGSD=q if tied else k, v_BGSD=v, grad_BHTD=grad)


def checksum(*tensors: torch.Tensor) -> int:
    """Sum the bits of tensors, weighted by row and by column: equal for equal contents, and cheap."""
    return sum(_weighted_bits(tensor) for tensor in tensors)


def _weighted_bits(tensor: torch.Tensor) -> int:
    kinds = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    rows = tensor.detach().contiguous()
    size = rows.element_size()
    # Several values are read as one wide integer where a row's length allows it: fewer to sum, none to widen.
    width = math.gcd(8, rows.shape[-1] * size)
    aligned = rows.storage_offset() * size % width == 0
    bits_RD = (rows if aligned else rows.clone()).view(kinds[width]).flatten(0, -2)
    by_row_R, by_column_D = bits_RD.sum(1, dtype=torch.int64), bits_RD.sum(0, dtype=torch.int64)
    sums = ((by_row_R, _ROW_WEIGHT), (by_column_D, _COLUMN_WEIGHT))
    return sum(int((each * (torch.arange(len(each), device=each.device) * odd + 1)).sum()) for each, odd in sums)


def _validated(out: object, queries_BHTD: torch.Tensor) -> torch.Tensor:
    if not isinstance(out, torch.Tensor):
        raise InvalidOutput(f"the output is a {type(out).__name__}, not a tensor")
    if out.shape != queries_BHTD.shape:
        raise InvalidOutput(f"the output has shape {list(out.shape)}, the queries {list(queries_BHTD.shape)}")
    if out.dtype != queries_BHTD.dtype:
        raise InvalidOutput(f"the output is {out.dtype}, the queries are {queries_BHTD.dtype}")
    if out.device != queries_BHTD.device:
        raise InvalidOutput(f"the output is on {out.device}, the queries are on {queries_BHTD.device}")
    wrong = out.numel() - int(torch.isfinite(out).sum())
    if wrong:
        raise InvalidOutput(f"{wrong} of {out.numel()} output values are NaN or infinite")
    return out


def _normal(size: tuple[int, ...], generator: torch.Generator, case: Case) -> torch.Tensor:
    """Draw in float32 and round to the case's dtype, so that every dtype is given the same numbers."""
    return torch.randn(size, generator=generator).to(device=case.device, dtype=getattr(torch, case.dtype))


def _parameters(attention: Attention) -> list[torch.Tensor]:
    if not isinstance(attention, torch.nn.Module):
        return []
    return [parameter for parameter in attention.parameters() if parameter.requires_grad]


def _check_measured(device: str) -> None:
    """Refuse a device for which there is no clock: its calls would be timed before they are done."""
    kind = device.partition(":")[0]
    if kind not in _MEASURED:
        raise Unsupported(f"{kind} is not measured yet (only {' and '.join(_MEASURED)} are)")
