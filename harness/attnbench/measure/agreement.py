"""The agreement probe: how far a mechanism is from exact attention in float64, and from itself in float64."""

# B batch, H heads, T queries, R chosen query rows, D head dimension; at layer level tensors are BTE, E width
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec
import torch

from attnbench import registry
from attnbench.case import Option
from attnbench.measure import failure
from attnbench.measure.callee import Attend, Callee
from attnbench.measure.inputs import Inputs, Tokens, differentiates
from attnbench.measure.layer import exact_layer_gradients, exact_outputs
from attnbench.measure.reference import chosen_rows, exact_attention, exact_gradients
from attnbench.measure.workload import Workload
from attnbench.record import Job, Measurement, Outcome
from attnbench.variant import InvalidOutput, Unsupported

Tensors = tuple[torch.Tensor, ...]
Found = tuple[list[Measurement], dict[str, Option]]

# Repeating a call in float64 costs several times the call; beyond this it is left out, and the figure is missing.
_LONGEST_CALL_S = 2.0
_NO_DIRECTION = 1e-12  # of the largest row's norm
_REFERENCE = "the float64 reference"


def measure(job: Job, tell: Callable[[str], None]) -> Outcome:
    """Compare output (or, in a backward pass, gradients) with exact attention's on the same inputs, in float64.

    At layer level exact attention stands between the same projections, whose gradients are compared too.
    Raises Unsupported, and InvalidOutput where a mechanism that calls itself exact errs more than twice as much as the
    plain formula in its dtype.
    """
    del tell  # an agreement job is a few calls
    workload = Workload.of(job, sets=2)
    if workload.support.level == "layer":
        raise Unsupported("it starts from tokens: there are no queries, keys and values to give to exact attention")
    inputs = workload.sets[0]
    rows_R = chosen_rows(job.case.shape.seq_q, seed=job.case.seed, device=inputs.tensors[0].device)
    started = time.perf_counter()
    own = _results(_checked(workload), workload.callee, inputs, rows_R=rows_R)
    seconds = time.perf_counter() - started
    if seconds <= _LONGEST_CALL_S:
        with torch.no_grad():
            workload.watch(*workload.callee.arguments(workload.sets[1]))
    workload.judge()
    with failure.on_account_of(_REFERENCE):
        wide = inputs.widened()
        exact = _exact_results(workload, wide, rows_R)
        if workload.support.exact:
            plain = relative_error(_exact_results(workload, inputs, rows_R), exact)
            _hold_to_exactness(relative_error(own, exact), plain=plain, dtype=inputs.tensors[0].dtype)
    twin = partial(_twin_results, workload, job, wide, rows_R)
    numerical, left_out = _numerical_error(own, twin, seconds=seconds)
    return Outcome(
        status="ok",
        measurements=(*_approximation_errors(own, exact, names=[*workload.callee.leaves(inputs)]), *numerical),
        backend=workload.backend,
        facts={"rows": len(rows_R)} | left_out,
    )


def relative_error(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> float:
    """Give |found - wanted| / |wanted| in the Frobenius norm over all tensors together, computed in float64."""
    difference = sum(float((a.double() - b.double()).square().sum()) for a, b in zip(found, wanted, strict=True))
    size = sum(float(b.double().square().sum()) for b in wanted)
    return math.sqrt(difference / size) if size else math.sqrt(difference)


def cosine(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> float:
    """Give the mean cosine between the rows of two results; a row that should be zero has no direction and is left out.

    (The first query of a causal mask sees one key, so its gradient is zero.)
    """
    each = []
    for a, b in zip(found, wanted, strict=True):
        sizes = b.double().norm(dim=-1)
        directed = sizes > _NO_DIRECTION * sizes.max()
        each.append(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=-1)[directed])
    return float(torch.cat(each).mean())


def _checked(workload: Workload) -> Attend:
    """Give the mechanism with its output examined at once: what is no attention output cannot be compared either."""

    def attend(*arguments: Any) -> torch.Tensor:
        out = workload.watch(*arguments)
        workload.examine()
        return out

    return attend


def _results(call: Attend, callee: Callee, inputs: Inputs | Tokens, *, rows_R: torch.Tensor) -> Tensors:
    """Give the output on the chosen rows, or the gradients that a cotangent on those rows gives."""
    if not differentiates(callee.case):
        with torch.no_grad():
            return (call(*callee.arguments(inputs))[..., rows_R, :],)
    out = call(*callee.arguments(inputs))[..., rows_R, :]
    leaves = [*callee.leaves(inputs).values()]
    found = torch.autograd.grad(out, leaves, inputs.cotangent[..., : len(rows_R), :], allow_unused=True)
    return tuple(torch.zeros_like(w) if g is None else g for g, w in zip(found, leaves, strict=True))


def _exact_results(workload: Workload, inputs: Inputs | Tokens, rows_R: torch.Tensor) -> Tensors:
    """Give what exact attention gives where `_results` asks the mechanism."""
    mask, layer = workload.case.mask, workload.callee.layer
    if isinstance(inputs, Tokens):
        assert layer is not None
        exact = exact_layer_gradients if workload.differentiates else exact_outputs
        return exact(layer.projections, inputs, mask=mask, rows_R=rows_R)
    if workload.differentiates:
        return exact_gradients(inputs, mask=mask, rows_R=rows_R)
    with torch.no_grad():
        return (exact_attention(*inputs.tensors, mask=mask, rows_R=rows_R),)


def _approximation_errors(own: Tensors, exact: Tensors, *, names: Sequence[str]) -> list[Measurement]:
    """Compare with exact attention: all together, and each gradient where there are gradients."""
    error = _figure("approximation_error", relative_error(own, exact))
    found = [error, _figure("cosine", cosine(own, exact), higher=True)]
    if len(own) > 1:
        pairs = zip(names, own, exact, strict=True)
        found += [_figure(f"approximation_error_d{name}", relative_error((a,), (b,))) for name, a, b in pairs]
    return found


def _numerical_error(own: Tensors, twin: Callable[[], Tensors], *, seconds: float) -> Found:
    """Compare with the mechanism's own float64 results; say why not where it does not serve float64 or has no room."""
    if seconds > _LONGEST_CALL_S:
        reason = f"left out: a call took {seconds:.1f} s, and in float64 it takes several times that"
        return [], {"numerical_error": reason}
    try:
        return [_figure("numerical_error", relative_error(own, twin()))], {}
    except Exception as error:
        if failure.status_of(error) in ("unsupported", "oom_host", "oom_device"):
            return [], {"numerical_error": f"in float64: {failure.reason(error)}"}
        raise


def _twin_results(workload: Workload, job: Job, wide: Inputs | Tokens, rows_R: torch.Tensor) -> Tensors:
    """Build the mechanism again in float64, with the same weights, and give its results."""
    twin = Callee(msgspec.structs.replace(job.case, dtype="float64"), registry.load(job.target))
    twin.take_weights(workload.callee)
    return _results(twin.call, twin, wide, rows_R=rows_R)


def _hold_to_exactness(error: float, *, plain: float, dtype: torch.dtype) -> None:
    bound = 2 * plain + torch.finfo(dtype).eps
    if not error <= bound:
        raise InvalidOutput(
            f"it calls itself exact and errs by {error:.2g}; the plain formula in the same dtype errs by {plain:.2g}"
        )


def _figure(metric: str, value: float, *, higher: bool = False) -> Measurement:
    return Measurement(
        metric=metric,
        unit="1",
        values=(value if math.isfinite(value) else None,),
        higher_is_better=higher,
        flags=() if math.isfinite(value) else ("non_finite",),
    )
