"""What one call of a pass executes and moves: the variant's own counts, else those of torch's operations."""

# B batch, H heads, T queries, S keys, D head dimension
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count, shape_wrapper

from attnbench.contracts.case import Case, Option
from attnbench.contracts.record import Job
from attnbench.measure import failure
from attnbench.measure.traffic import Traffic
from attnbench.measure.workload import Workload

_LONGEST_CALL_NS = 500_000_000  # a longer one is not made once more only to be counted
_LARGEST = 2**63  # what a stored whole number can hold
_FACTS = {"flops": "flops", "bytes": "bytes_executed"}  # what a variant may count itself, and the fact that it becomes
UNSEEN = "a kernel took part that torch's counter cannot see"
_aten = torch.ops.aten

Counted = dict[str, Option]
Size = Sequence[int]


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What the operations of a call do: multiply and add, a multiply-add as two; read operands and write results.

    `whole` is false where a kernel took part that is not among torch's operations, and so in no count.
    """

    flops: int
    bytes: int
    whole: bool


def counts(job: Job, workload: Workload, *, call_ns: float) -> Counted:
    """Give the facts `flops`, `bytes_executed` and `bytes_least` of one call; `flops_by` and `bytes_by` tell whose.

    Where the variant lacks a count of its own, one further call is watched, in the first round and where a call is
    short. An unknown count is null, with the reason in `flops_unknown` or `bytes_unknown`: so are both where a kernel
    took part that cannot be watched, and a number of products that is zero.
    """
    own = {name: _own(workload.callee.plugin, name, workload.case) for name in _FACTS}
    found = {name: facts for name, facts in own.items() if facts}
    if len(found) < len(_FACTS) and job.round == 1:  # the first round's counts hold for all
        found = _watched(workload, call_ns=call_ns) | found
    return {"bytes_least": least_bytes(workload)} | {
        name: fact for each in found.values() for name, fact in each.items()
    }


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


def counted(call: Callable[[], object]) -> Work:
    """Count a call's work: matrix products by torch's formulas, those of the CPU's fused attention kernel included."""
    counter = _Counter()
    with counter:
        result = call()
    counter.traffic.gave(result)
    return Work(flops=counter.flops, bytes=counter.traffic.bytes, whole=not counter.traffic.unseen)


class _Counter(TorchDispatchMode):
    """What torch's FlopCounterMode counts, whose own first call imports the compiler: seconds in a fresh process."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch leaves it untyped
        self.flops, self.traffic = 0, Traffic()

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
        self.traffic.saw(func, args, named, out)
        if formula is not None:
            self.flops += int(formula(*args, **named, out_val=out))
        return out


def _watched(workload: Workload, *, call_ns: float) -> dict[str, Counted]:
    """Count one further call; always of the first inputs, for what a call does may depend on them."""
    if call_ns > _LONGEST_CALL_NS:
        reason = "a call takes too long to be made once more for its counts"
        return {name: _unknown(name, reason) for name in _FACTS}
    try:
        found = counted(workload.call_on_first())
    except Exception as error:
        return {name: _unknown(name, failure.reason(error)) for name in _FACTS}
    if not found.whole:
        return {name: _unknown(name, UNSEEN) for name in _FACTS}
    traffic = _known("bytes", found.bytes, by="counter")
    if not found.flops:
        return {"flops": _unknown("flops", "torch's counter saw no matrix product"), "bytes": traffic}
    return {"flops": _known("flops", found.flops, by="counter"), "bytes": traffic}


def _known(name: str, count: int, *, by: str) -> Counted:
    return {_FACTS[name]: count, f"{name}_by": by}


def _unknown(name: str, reason: str) -> Counted:
    return {_FACTS[name]: None, f"{name}_unknown": reason}


def _own(plugin: Any, name: str, case: Case) -> Counted:
    """Ask a variant for a count of its own; nothing where it has none, or none of the projections around it."""
    count = getattr(plugin, name, None)
    if count is None or case.level != "core":
        return {}
    try:
        found = count(case)
        if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < _LARGEST:
            raise TypeError(f"{name}(case) gave {found!r}, which is no count")  # noqa: TRY301 - of a kind with its own
    except Exception as error:
        return _unknown(name, failure.reason(error))
    return _known(name, found, by="variant")


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
