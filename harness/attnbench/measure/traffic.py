"""The bytes that torch's operations read and write: tensor operands and results, each as it is stored.

Operands are counted whether memory serves them or a cache that still holds what the last operation has written.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

# Operations that allocate or resize memory without writing to it.
_ALLOCATE = frozenset(
    ("empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided", "resize_", "set_")
)
# Operations that use only the shape and device of their operands.
_USE_SHAPE = frozenset(("_fused_sdp_choice", "is_same_size", "new_full", "new_ones", "new_zeros")) | frozenset(
    ("full_like", "ones_like", "rand_like", "randint_like", "randn_like", "zeros_like")
)
# In-place operations that do not read their first operand.
_OVERWRITE = frozenset(("bernoulli_", "copy_", "exponential_", "fill_", "normal_", "random_", "uniform_", "zero_"))
# Operations that read of their first operand only what they return, or write of it only as much as they are given.
_GATHER = frozenset(("embedding", "gather", "index", "index_select", "take"))
_SCATTER = frozenset(("_index_put_impl_", "_unsafe_index_put_", "index_copy_", "index_put_", "scatter_"))
_SCATTER_ADD = frozenset(("index_add_", "index_reduce_", "scatter_add_", "scatter_reduce_"))


class Traffic:
    """Sums the bytes that operations move.

    Views and allocations move nothing. An expanded operand, or a view that overlaps itself, counts its memory once. An
    operand changed in place is read and written. The scores inside a fused kernel are not an operand. `unseen` is true
    once memory is used that no operation has written to: a kernel that is not torch's has.
    """

    def __init__(self) -> None:
        self.bytes, self.unseen = 0, False
        self._blank: set[int] = set()  # addresses of allocated memory that no operation has written to

    def add(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        """Add an operation, given as it was called, and its result."""
        call = _Call.of(func, args, kwargs, result)
        if call.name in _ALLOCATE:
            self._blank |= _addresses(call.made)
        elif not call.is_view:
            self._use(_read(call))
            self._blank -= _addresses(call.written)
            self.bytes += _read_bytes(call) + _written_bytes(call)

    def use_result(self, result: object) -> None:
        """Check that the result of the whole call was written, too."""
        self._use(_tensors(result))

    def _use(self, tensors: Iterable[torch.Tensor]) -> None:
        self.unseen |= not self._blank.isdisjoint(_addresses(tensors))


def stored_bytes(tensor: torch.Tensor) -> int:
    """Return the bytes of memory that a tensor's elements occupy, each counted once whatever the strides."""
    if not tensor.numel():
        return 0
    elements, reach = 1, 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        elements, reach = elements * (size if stride else 1), reach + (size - 1) * stride
    return min(elements, reach) * tensor.element_size()


class _Call(NamedTuple):
    """A call of an operation: its operands by name, and the tensors that it wrote."""

    name: str
    operands: dict[str, list[torch.Tensor]]  # without `out` arguments, which are only written to
    beta: object  # the factor of the first operand of addmm and its like; of 0 the operand is not read
    written: list[torch.Tensor]
    made: list[torch.Tensor]  # results in memory of their own
    is_view: bool

    @classmethod
    def of(cls, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> "_Call":
        declared = func._schema.arguments  # noqa: SLF001 - torch has no public declaration of an operation
        values = {argument.name: value for argument, value in zip(declared, args, strict=False)} | dict(kwargs)
        by_name = {name: tensors for name, value in values.items() if (tensors := _tensors(value))}
        changed = {argument.name for argument in declared if argument.alias_info and argument.alias_info.is_write}
        outs = {argument.name for argument in declared if argument.is_out}
        old = _addresses(tensor for tensors in by_name.values() for tensor in tensors)
        results = _tensors(result)
        made = [tensor for tensor in results if tensor.numel() and _addresses([tensor]).isdisjoint(old)]
        written = [tensor for name, tensors in by_name.items() if name in changed for tensor in tensors]
        return cls(
            name=func.overloadpacket.__name__,
            operands={name: tensors for name, tensors in by_name.items() if name not in outs},
            beta=values.get("beta"),
            written=[*written, *made],
            made=made,
            is_view=bool(results) and not (written or made),
        )


def _read(call: _Call) -> list[torch.Tensor]:
    """Return the operands that are read."""
    if call.name in _USE_SHAPE:
        return []
    skips_first = call.name in _OVERWRITE or call.name in _SCATTER or call.beta == 0
    read = list(call.operands.values())[1 if skips_first else 0 :]
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
    """Return the bytes changed in the first operand of a scatter: as many elements as it is given."""
    (first,), *others = call.operands.values()
    elements = max(tensor.numel() for tensors in others for tensor in tensors)
    return min(first.numel(), elements) * first.element_size()


def _addresses(tensors: Iterable[torch.Tensor]) -> set[int]:
    """Return the addresses of the tensors' memory; empty tensors have none."""
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}


def _tensors(value: object) -> list[torch.Tensor]:
    """Return the tensors in a value, or in nested lists and tuples of values."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for part in value for tensor in _tensors(part)]
    return []
