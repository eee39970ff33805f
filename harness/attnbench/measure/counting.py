"""What one call of a pass executes and moves: the variant's own counts, else torch's count and the least traffic."""

# B batch, H heads, T queries, S keys, D head dimension
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count, shape_wrapper

from attnbench.case import Case, Option
from attnbench.measure import failure
from attnbench.measure.workload import Workload
from attnbench.record import Job

_LONGEST_CALL_NS = 500_000_000  # a longer one is not made once more only to be counted
_LARGEST = 2**63  # what a stored whole number can hold
_aten = torch.ops.aten

Counted = dict[str, Option]
Size = Sequence[int]


def counts(job: Job, workload: Workload, *, call_ns: float) -> Counted:
    """Give the facts `flops` and `bytes` of one call, and by what they were counted (`flops_by`, `bytes_by`).

    Without a count of the variant's own, torch's counter watches one further call, in the first round and where a call
    is short; it misses what custom kernels do, so that zero is unknown. Traffic is then the least there can be: inputs
    read once and results written once. An unknown count is null, with the reason in `flops_unknown`.
    """
    return _flops(job, workload, call_ns=call_ns) | _bytes(workload)


def least_bytes(workload: Workload) -> int:
    """Count the bytes of a pass's inputs and results, each once: no mechanism that reads all of them moves less."""
    inputs = workload.sets[0]
    moved = sum(tensor.nbytes for tensor in workload.read_by_a_call())
    written = inputs.tensors[0].nbytes  # an output is as large as what it answers
    if workload.case.passes == "backward":
        return 2 * moved + inputs.cotangent.nbytes
    if workload.case.passes == "forward-backward":
        return 2 * moved + inputs.cotangent.nbytes + written
    return moved + written


def counted_flops(call: Callable[[], object]) -> int:
    """Count the matrix products of a call by torch's formulas, those of the CPU's fused attention kernel included."""
    counter = _Counter()
    with counter:
        call()
    return counter.flops


class _Counter(TorchDispatchMode):
    """What torch's FlopCounterMode counts, whose own first call imports the compiler: seconds in a fresh process."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch leaves it untyped
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to be skipped is what imports it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do an operation; count it, or the operations that it is made of."""
        del types
        named = kwargs or {}
        formula = _FORMULAS.get(func.overloadpacket)
        if formula is None:
            with self:
                made = func.decompose(*args, **named)
            if made is not NotImplemented:
                return made
        out = func(*args, **named)
        if formula is not None:
            self.flops += int(formula(*args, **named, out_val=out))
        return out


def _flops(job: Job, workload: Workload, *, call_ns: float) -> Counted:
    try:
        own = _own(workload.callee.plugin, "flops", workload.case)
        if own is not None:
            return {"flops": own, "flops_by": "variant"}
        if job.round > 1:
            return {}  # the first round's count holds for all
        if call_ns > _LONGEST_CALL_NS:
            return {"flops": None, "flops_unknown": "a call takes too long to be made once more for its count"}
        (call,) = workload.calls(1)
        found = counted_flops(call)
    except Exception as error:
        return {"flops": None, "flops_unknown": failure.reason(error)}
    if found == 0:
        return {"flops": None, "flops_unknown": "torch's counter saw no matrix product"}
    return {"flops": found, "flops_by": "counter"}


def _bytes(workload: Workload) -> Counted:
    try:
        own = _own(workload.callee.plugin, "bytes", workload.case)
    except Exception as error:
        return {"bytes": None, "bytes_unknown": failure.reason(error)}
    if own is None:
        return {"bytes": least_bytes(workload), "bytes_by": "least"}
    return {"bytes": own, "bytes_by": "variant"}


def _own(plugin: Any, name: str, case: Case) -> int | None:
    """Ask a variant for a count of its own; None where it has none, or none of the projections around it."""
    count = getattr(plugin, name, None)
    if count is None or case.level != "core":
        return None
    found = count(case)
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < _LARGEST:
        raise TypeError(f"{name}(case) gave {found!r}, which is no count")
    return found


# Formulas as torch's are called: with a kernel's arguments as they were given, and tensors as their shapes.


def _fused_forward(q: Size, k: Size, v: Size, *rest: Any, **named: Any) -> int:
    """Count the CPU's fused kernel, called with (q, k, v, dropout_p, is_causal): a causal one skips what is masked."""
    return _seen(int(sdpa_flop_count(q, k, v)), q, k, is_causal=named.get("is_causal", any(rest[1:2])))


def _fused_backward(_grad: Size, q: Size, k: Size, v: Size, *rest: Any, **named: Any) -> int:
    """Count its backward, called with (grad, q, k, v, out, lse, dropout_p, is_causal): five products for two."""
    return _seen(int(sdpa_flop_count(q, k, v)) * 5 // 2, q, k, is_causal=named.get("is_causal", any(rest[3:4])))


def _seen(flops: int, q: Size, k: Size, *, is_causal: bool) -> int:
    """Take the share of the pairs that the kernel's causal mask, which is aligned at the first key, leaves."""
    if not is_causal:
        return flops
    queries, keys = q[-2], k[-2]
    rising = min(queries, keys)
    pairs = rising * (rising + 1) // 2 + (queries - rising) * keys
    return flops * pairs // (queries * keys)


_FORMULAS = {
    **flop_registry,
    _aten._scaled_dot_product_flash_attention_for_cpu: shape_wrapper(_fused_forward),  # noqa: SLF001 - its name
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: shape_wrapper(_fused_backward),  # noqa: SLF001 - likewise
}
