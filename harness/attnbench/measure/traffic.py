"""The bytes that torch's operations read and write: tensor operands and results, each as it is stored.

A count of operands, whoever serves them: memory, or a cache that still holds what the operation before has written.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

# They give memory, or resize it, and leave what is in it alone.
_ALLOCATE = frozenset(
    ("empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided", "resize_", "set_")
)
# Of what is given they take no more than its shape and place.
_MEASURE = frozenset(("_fused_sdp_choice", "is_same_size", "new_full", "new_ones", "new_zeros")) | frozenset(
    ("full_like", "ones_like", "rand_like", "randint_like", "randn_like", "zeros_like")
)
# In place, and nothing that was there before is read.
_OVERWRITE = frozenset(("bernoulli_", "copy_", "exponential_", "fill_", "normal_", "random_", "uniform_", "zero_"))
# Of the first operand they read what they give; or change no more of it than they are given.
_GATHER = frozenset(("embedding", "gather", "index", "index_select", "take"))
_SCATTER = frozenset(("_index_put_impl_", "_unsafe_index_put_", "index_copy_", "index_put_", "scatter_"))
_SCATTER_ADD = frozenset(("index_add_", "index_reduce_", "scatter_add_", "scatter_reduce_"))


class Traffic:
    """Sums what operations move, told of each as it was called, with its result.

    A view moves nothing, nor does what only allocates; an operand that is expanded, or a view that overlaps itself, is
    its memory once; what is changed in place is read and written; the scores of a fused kernel are no operand.
    `unseen` tells that memory was used which no operation had written to: a kernel that is not torch's own has.
    """

    def __init__(self) -> None:
        self.bytes, self.unseen = 0, False
        self._blank: set[int] = set()  # where memory lies that was given, and that nothing has been written to

    def saw(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        """Add an operation."""
        call = _Call.of(func, args, kwargs, result)
        if call.name in _ALLOCATE:
            self._blank |= _places(call.made)
        elif not call.is_view:
            self._use(_read(call))
            self._blank -= _places(call.written)
            self.bytes += _read_bytes(call) + _written_bytes(call)

    def gave(self, result: object) -> None:
        """Look at what the whole call gave back: it must have been written, too."""
        self._use(_tensors(result))

    def _use(self, tensors: Iterable[torch.Tensor]) -> None:
        self.unseen |= not self._blank.isdisjoint(_places(tensors))


def stored_bytes(tensor: torch.Tensor) -> int:
    """Count the bytes of memory that a tensor's elements lie in, each once, however often strides come back to it."""
    if not tensor.numel():
        return 0
    elements, reach = 1, 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        elements, reach = elements * (size if stride else 1), reach + (size - 1) * stride
    return min(elements, reach) * tensor.element_size()


class _Call(NamedTuple):
    """An operation: what it was given, by its declaration's names, what of that it changes, and what it made."""

    name: str
    given: dict[str, list[torch.Tensor]]  # without what is only to be written to
    beta: object  # what the first operand is scaled by before others are added to it
    written: list[torch.Tensor]
    made: list[torch.Tensor]  # results in memory of their own
    is_view: bool

    @classmethod
    def of(cls, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> "_Call":
        declared = func._schema.arguments  # noqa: SLF001 - the only declaration that torch has
        values = {argument.name: value for argument, value in zip(declared, args, strict=False)} | dict(kwargs)
        tensors = {name: found for name, value in values.items() if (found := _tensors(value))}
        changed = {each.name for each in declared if each.alias_info is not None and each.alias_info.is_write}
        outs = {each.name for each in declared if each.is_out}
        known = _places(tensor for each in tensors.values() for tensor in each)
        results = _tensors(result)
        made = [tensor for tensor in results if tensor.numel() and _places([tensor]).isdisjoint(known)]
        written = [tensor for name, each in tensors.items() if name in changed for tensor in each]
        return cls(
            name=func.overloadpacket.__name__,
            given={name: each for name, each in tensors.items() if name not in outs},
            beta=values.get("beta"),
            written=[*written, *made],
            made=made,
            is_view=bool(results) and not (written or made),
        )


def _read(call: _Call) -> list[torch.Tensor]:
    """List what is read: all that is given, but what is written anew, what is only measured, or not looked at."""
    if call.name in _MEASURE:
        return []
    skips_first = call.name in _OVERWRITE or call.name in _SCATTER or call.beta == 0
    read = list(call.given.values())[1 if skips_first else 0 :]
    return [tensor for tensors in read for tensor in tensors]


def _read_bytes(call: _Call) -> int:
    tensors = _read(call)
    if call.name not in _GATHER | _SCATTER_ADD:
        return sum(map(stored_bytes, tensors))
    taken = _touched(call) if call.name in _SCATTER_ADD else sum(map(stored_bytes, call.written))
    return taken + sum(map(stored_bytes, tensors[1:]))


def _written_bytes(call: _Call) -> int:
    return _touched(call) if call.name in _SCATTER | _SCATTER_ADD else sum(map(stored_bytes, call.written))


def _touched(call: _Call) -> int:
    """Count what is changed of the first operand: as many places as there are in what is put there."""
    (first,), *others = call.given.values()
    places = max(tensor.numel() for tensors in others for tensor in tensors)
    return min(first.numel(), places) * first.element_size()


def _places(tensors: Iterable[torch.Tensor]) -> set[int]:
    """Give where the tensors' memory begins; one that holds nothing lies nowhere."""
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}


def _tensors(value: object) -> list[torch.Tensor]:
    """List the tensors in a value, or in the lists and tuples that it is made of."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for each in value for tensor in _tensors(each)]
    return []
