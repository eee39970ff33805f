"""FLOPs and bytes of one call of a pass: the variant's own counts, else those of torch's operations."""

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

_LONGEST_CALL_NS = 500_000_000  # a longer call is not repeated only to be counted
_LARGEST = 2**63  # of stored integers
_FACTS = {"flops": "flops", "bytes": "bytes_executed"}  # a variant's own count, and the fact that it becomes
UNSEEN = "a kernel took part that torch's counter cannot see"
_aten = torch.ops.aten

Facts = dict[str, Option]
Size = Sequence[int]


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """The work of a call's operations: FLOPs (a multiply-add is two), and bytes of operands read and results written.

    `whole` is false if a kernel took part that is not one of torch's operations, and so is in neither count.
    """

    flops: int
    bytes: int
    whole: bool


def counts(job: Job, workload: Workload, *, call_ns: float) -> Facts:
    """Return the facts `flops`, `bytes_executed` and `bytes_least` of one call, and by whom: `flops_by`, `bytes_by`.

    Where the variant has no count of its own, one further call is counted by torch's operations, in the first round
    (whose counts hold for all) and unless a call is long. An unknown count is null, with the reason in `flops_unknown`
    or `bytes_unknown`; both are unknown if a kernel is not one of torch's operations, and FLOPs of zero are.
    """
    own = {name: _own(workload.callee.plugin, name, workload.case) for name in _FACTS}
    by_name = {name: facts for name, facts in own.items() if facts}
    if len(by_name) < len(_FACTS) and job.round == 1:
        by_name = _by_torch(workload, call_ns=call_ns) | by_name
    facts: Facts = {"bytes_least": least_bytes(workload)}
    for count in by_name.values():
        facts |= count
    return facts


def least_bytes(workload: Workload) -> int:
    """Return the bytes of a pass's inputs and results, each once: a mechanism that reads all inputs moves no less."""
    inputs = workload.sets[0]
    read = sum(tensor.nbytes for tensor in workload.read_by_a_call())
    written = inputs.tensors[0].nbytes  # an output is as large as the queries or tokens
    if workload.case.passes == "backward":
        return 2 * read + inputs.cotangent.nbytes
    if workload.case.passes == "forward-backward":
        return 2 * read + inputs.cotangent.nbytes + written
    return read + written


def counted(call: Callable[[], object]) -> Work:
    """Return a call's work: matrix products by torch's formulas, and of the CPU's fused attention kernel by ours."""
    counter = _Counter()
    with counter:
        result = call()
    counter.traffic.use_result(result)
    return Work(flops=counter.flops, bytes=counter.traffic.bytes, whole=not counter.traffic.unseen)


class _Counter(TorchDispatchMode):
    """Counts what torch's FlopCounterMode does, without its import of the compiler, seconds in a fresh process."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch leaves it untyped
        self.flops, self.traffic = 0, Traffic()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # true would import the compiler

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Perform an operation, and count it or the operations that it is composed of."""
        del types
        named = kwargs or {}
        formula = _FORMULAS.get(func.overloadpacket)
        if formula is None:
            with self:
                composed = func.decompose(*args, **named)
            if composed is not NotImplemented:
                return composed
        out = func(*args, **named)
        self.traffic.add(func, args, named, out)
        if formula is not None:
            self.flops += int(formula(*args, **named, out_val=out))
        return out


def _by_torch(workload: Workload, *, call_ns: float) -> dict[str, Facts]:
    """Count one further call; always on the first inputs, as its work may depend on them."""
    if call_ns > _LONGEST_CALL_NS:
        reason = "a call takes too long to be made once more for its counts"
        return {name: _unknown(name, reason) for name in _FACTS}
    try:
        work = counted(workload.call_on_first())
    except Exception as error:
        return {name: _unknown(name, failure.reason(error)) for name in _FACTS}
    if not work.whole:
        return {name: _unknown(name, UNSEEN) for name in _FACTS}
    traffic = _known("bytes", work.bytes, by="counter")
    if not work.flops:
        return {"flops": _unknown("flops", "torch's counter saw no matrix product"), "bytes": traffic}
    return {"flops": _known("flops", work.flops, by="counter"), "bytes": traffic}


def _known(name: str, count: int, *, by: str) -> Facts:
    return {_FACTS[name]: count, f"{name}_by": by}


def _unknown(name: str, reason: str) -> Facts:
    return {_FACTS[name]: None, f"{name}_unknown": reason}


def _own(plugin: Any, name: str, case: Case) -> Facts:
    """Return a variant's own count, or nothing: at layer level it would leave out the projections."""
    count = getattr(plugin, name, None)
    if count is None or case.level != "core":
        return {}
    try:
        value = count(case)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _LARGEST:
            raise TypeError(f"{name}(case) gave {value!r}, which is no count")  # noqa: TRY301 - of a kind with its own
    except Exception as error:
        return _unknown(name, failure.reason(error))
    return _known(name, value, by="variant")


# Formulas with the signature of torch's: a kernel's arguments as they were given, tensors as their shapes.


def _fused_forward(q: Size, k: Size, v: Size, *rest: Any, **named: Any) -> int:
    """Return the FLOPs of the CPU's fused kernel, called with (q, k, v, dropout_p, is_causal)."""
    return _visible(int(sdpa_flop_count(q, k, v)), q, k, is_causal=named.get("is_causal", any(rest[1:2])))


def _fused_backward(_grad: Size, q: Size, k: Size, v: Size, *rest: Any, **named: Any) -> int:
    """Return its backward's FLOPs, 5 products for 2, called with (grad, q, k, v, out, lse, dropout_p, is_causal)."""
    return _visible(int(sdpa_flop_count(q, k, v)) * 5 // 2, q, k, is_causal=named.get("is_causal", any(rest[3:4])))


def _visible(flops: int, q: Size, k: Size, *, is_causal: bool) -> int:
    """Return the FLOPs of visible pairs: the kernel's causal mask, which it skips, is aligned at the first key."""
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
