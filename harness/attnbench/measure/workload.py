"""A case made callable: the built mechanism, inputs drawn from the seed, and the calls that a pass consists of."""

# B batch, H heads, G key/value heads, T queries, S keys, D head dimension
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import cycle, islice
from typing import Any

import torch
from msgspec import Struct

from attnbench import registry, variant
from attnbench.case import Case
from attnbench.record import Job
from attnbench.variant import Attention, InvalidOutput

Call = Callable[[], object]
_SETS, _WATCHED = 3, 2


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


class Workload:
    """A mechanism with inputs, ready to be called. `sets` are used in turn, so that no cache holds an answer."""

    def __init__(self, case: Case, plugin: Any, *, sets: int = _SETS) -> None:
        self.case = case
        self.support = variant.support_of(plugin)
        self.attention = variant.build(plugin, case)
        self.sets = tuple(draw(case, index, tied=self.support.ties_qk) for index in range(sets))
        self._bits = [checksum(*inputs.tensors) for inputs in self.sets]
        self._seen: list[torch.Tensor] = []
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
        """Give the next `count` calls of the pass, on the sets in turn; a backward pass's graphs are built here."""
        first, self._taken = self._taken, self._taken + count
        attend = self.watch if first < _WATCHED else self.attention
        turns = [self.sets[(first + index) % len(self.sets)] for index in range(len(self.sets))]
        if self.case.passes == "backward":
            return [partial(self._gradients, attend(*i.tensors), i) for i in islice(cycle(turns), count)]
        if self.case.passes == "forward-backward":
            calls: list[Call] = [partial(self._forward_backward, attend, inputs) for inputs in turns]
        else:
            calls = [partial(attend, *inputs.tensors) for inputs in turns]
        return islice(cycle(calls), count)

    def judge(self) -> None:
        """Judge what the first calls gave back, once the timing is over.

        Raises InvalidOutput for a wrong shape, dtype or device, NaN, changed inputs, or one answer to two questions.
        """
        for out, inputs in zip(self._seen, self.sets, strict=False):
            _validate(out, inputs)
        if [checksum(*inputs.tensors) for inputs in self.sets] != self._bits:
            raise InvalidOutput("the mechanism changes its inputs")
        answers = [checksum(out) for out in self._seen]
        if len(set(answers)) < len(answers):
            raise InvalidOutput("different inputs give the very same output: an answer is kept between calls")

    def watch(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Call the mechanism, and keep what the first calls give back for `judge`."""
        out = self.attention(*tensors)
        if len(self._seen) < _WATCHED:
            self._seen.append(out.detach() if isinstance(out, torch.Tensor) else out)
        return out

    def _gradients(self, out_BHTD: torch.Tensor, inputs: Inputs) -> tuple[torch.Tensor | None, ...]:
        wanted = [*_distinct(inputs.tensors), *_parameters(self.attention)]
        # torch.autograd.grad rather than .backward(): nothing accumulates, and each graph is used once.
        return torch.autograd.grad(out_BHTD, wanted, inputs.grad_BHTD, allow_unused=True)

    def _forward_backward(self, attend: Attention, inputs: Inputs) -> tuple[torch.Tensor | None, ...]:
        return self._gradients(attend(*inputs.tensors), inputs)


def draw(case: Case, index: int, *, tied: bool) -> Inputs:
    """Draw set number `index` of a case's inputs from its seed: the same numbers on every device and for every variant.

    With `tied`, keys are the queries themselves (a mechanism that shares them).
    """
    shape = case.shape
    generator = torch.Generator().manual_seed((case.seed * 1_000_003 + index) % 2**63)
    queries = (shape.batch, shape.heads, shape.seq_q, shape.head_dim)
    keys = (shape.batch, shape.kv_heads, shape.seq_k, shape.head_dim)
    grows = case.passes in ("backward", "forward-backward")
    q, k, v, grad = (_normal(size, generator, case) for size in (queries, keys, keys, queries))
    for tensor in (q, k, v):
        tensor.requires_grad_(grows)
    return Inputs(q_BHTD=q, k_BGSD=q if tied else k, v_BGSD=v, grad_BHTD=grad)


def _validate(out: object, inputs: Inputs) -> None:
    queries = inputs.q_BHTD
    if not isinstance(out, torch.Tensor):
        raise InvalidOutput(f"the output is a {type(out).__name__}, not a tensor")
    if out.shape != queries.shape:
        raise InvalidOutput(f"the output has shape {list(out.shape)}, the queries {list(queries.shape)}")
    if out.dtype != queries.dtype:
        raise InvalidOutput(f"the output is {out.dtype}, the queries are {queries.dtype}")
    if out.device != queries.device:
        raise InvalidOutput(f"the output is on {out.device}, the queries are on {queries.device}")
    wrong = out.numel() - int(torch.isfinite(out).sum())
    if wrong:
        raise InvalidOutput(f"{wrong} of {out.numel()} output values are NaN or infinite")


def checksum(*tensors: torch.Tensor) -> int:
    """Sum the bits of tensors: equal for equal contents, and cheap."""
    kinds = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    views = (tensor.detach().contiguous().view(kinds[tensor.element_size()]) for tensor in tensors)
    return sum(int(view.sum(dtype=torch.int64)) for view in views)


def _normal(size: tuple[int, ...], generator: torch.Generator, case: Case) -> torch.Tensor:
    """Draw in float32 and round to the case's dtype, so that every dtype is given the same numbers."""
    return torch.randn(size, generator=generator).to(device=case.device, dtype=getattr(torch, case.dtype))


def _distinct(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Leave out a tensor that stands twice: tied queries and keys have one gradient."""
    return list({id(tensor): tensor for tensor in tensors}.values())


def _parameters(attention: Attention) -> list[torch.Tensor]:
    if not isinstance(attention, torch.nn.Module):
        return []
    return [parameter for parameter in attention.parameters() if parameter.requires_grad]
