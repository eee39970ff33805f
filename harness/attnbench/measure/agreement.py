"""The agreement probe: a mechanism's error against exact attention in float64, and against itself in float64.

It also measures the share of exact attention's weights that is kept, and whether the output depends on hidden tokens.
"""

# B batch, H heads, T queries, R chosen query rows, D head dimension; at layer level tensors are BTE, E width
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import torch

from attnbench.contracts.case import Option
from attnbench.contracts.metrics import metric_named
from attnbench.contracts.record import Job, Outcome
from attnbench.contracts.variant import InvalidOutput, Unsupported
from attnbench.measure import captured, failure, leaks, weights
from attnbench.measure.callee import Attend, Callee
from attnbench.measure.effective import repeatable, rounding, summation
from attnbench.measure.inputs import Inputs, Tokens
from attnbench.measure.layer import exact_layer_gradients, exact_outputs
from attnbench.measure.metric import measurement
from attnbench.measure.reference import chosen_rows, exact_attention, exact_gradients
from attnbench.measure.workload import Workload
from attnbench.plugins import registry

Tensors = tuple[torch.Tensor, ...]
Values = dict[str, float]  # by metric
Facts = dict[str, Option]

# In float64 a call takes several times as long; of a longer one the numerical error is left out.
_LONGEST_CALL_S = 2.0
_REFERENCE_ROUNDING = 1e-14  # of exact attention in float64, which no mechanism can be held to exceed
_NO_DIRECTION = 1e-12  # of the largest row's norm
_REFERENCE = "the float64 reference"
_LEAKS = ("hidden_mass", "mask_leak")  # metrics that are no more than rounding unless hidden tokens matter


def measure(job: Job, report: Callable[[str], None]) -> Outcome:
    """Compare output and, in a backward pass, gradients with exact attention's on the same inputs, in float64.

    At layer level exact attention stands between the same projections, whose gradients are compared too.
    Raises Unsupported; InvalidOutput for gradients that are not finite, and for a mechanism that calls itself exact if
    its error exceeds twice that of the plain formula in its dtype, rounding aside, or if hidden tokens matter.
    """
    del report  # an agreement job takes a few seconds of calls
    workload = Workload.of(job, sets=2)
    if workload.support.level == "layer":
        raise Unsupported("it starts from tokens: there are no queries, keys and values to give to exact attention")
    inputs = workload.sets[0]
    rows_R = chosen_rows(job.case.shape.seq_q, seed=job.case.seed, device=inputs.tensors[0].device)
    started = time.perf_counter()
    attend = repeatable(_examined(workload), seed=job.case.seed)
    own = _results(attend, workload.callee, inputs, rows_R=rows_R)
    seconds = time.perf_counter() - started
    call_s = _second_call_s(workload) if seconds <= _LONGEST_CALL_S else seconds
    workload.judge()
    names = _names(workload.callee, inputs)
    _check_finite(own, names)
    with failure.on_account_of(_REFERENCE):
        wide = inputs.widened()
        exact = _exact_results(workload, wide, rows_R)
        if workload.support.exact:
            plain, shape = _exact_results(workload, inputs, rows_R), job.case.shape
            _check_exact(own, exact, plain=plain, names=names, terms=max(shape.seq_q, shape.seq_k))
    inspected, uninspected = _inspected(workload, call_s=call_s)
    flags = _leak_flags(inspected, workload)
    twin = partial(_twin_results, workload, job, wide, rows_R)
    numerical, left_out = _numerical_error(own, twin, seconds=seconds)
    values = _approximation_errors(own, exact, names=names) | numerical | inspected
    measurements = [
        measurement(metric_named(name), [value], flags=flags.get(name, ())) for name, value in values.items()
    ]
    if isinstance(inputs, Inputs):
        measurements.append(measurement(metric_named("approximation_error_heads"), errors_of_heads(own[0], exact[0])))
    source = captured.source_of(job.inputs_path) if job.inputs_path else {}
    return Outcome(
        status="ok",
        measurements=tuple(measurements),
        backend=workload.backend,
        facts={"rows": len(rows_R)} | source | left_out | uninspected,
    )


def relative_error(results: Sequence[torch.Tensor], exact: Sequence[torch.Tensor]) -> float:
    """Return |results - exact| / |exact|, in the Frobenius norm over all tensors together, computed in float64."""
    difference = sum(float((a.double() - b.double()).square().sum()) for a, b in zip(results, exact, strict=True))
    size = sum(float(b.double().square().sum()) for b in exact)
    return math.sqrt(difference / size) if size else math.sqrt(difference)


def errors_of_heads(out_BHRD: torch.Tensor, exact_BHRD: torch.Tensor) -> list[float]:
    """Return the relative error of the output of each head of each sequence, in float64."""
    pairs = zip(out_BHRD.flatten(0, 1), exact_BHRD.flatten(0, 1), strict=True)
    return [relative_error([out_RD], [exact_RD]) for out_RD, exact_RD in pairs]


def cosine(results: Sequence[torch.Tensor], exact: Sequence[torch.Tensor]) -> float:
    """Return the mean cosine between rows; rows whose exact value is zero have no direction and are left out.

    (The first query of a causal mask sees one key, so its gradient is zero.)
    """
    cosines = []
    for a, b in zip(results, exact, strict=True):
        sizes = b.double().norm(dim=-1)
        directed = sizes > _NO_DIRECTION * sizes.max()
        cosines.append(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=-1)[directed])
    return float(torch.cat(cosines).mean())


def _examined(workload: Workload) -> Attend:
    """Wrap the mechanism so that each output is examined at once: only an attention output can be compared."""

    def attend(*arguments: Any) -> torch.Tensor:
        out = workload.watch(*arguments)
        workload.examine()
        return out

    return attend


def _second_call_s(workload: Workload) -> float:
    """Call on other inputs, which shows whether an output is kept; return the seconds of the call."""
    arguments = workload.callee.arguments(workload.sets[1])
    started = time.perf_counter()
    with torch.no_grad():
        workload.watch(*arguments)
        workload.examine()  # which waits for the device
    return time.perf_counter() - started


def _results(attend: Attend, callee: Callee, inputs: Inputs | Tokens, *, rows_R: torch.Tensor) -> Tensors:
    """Return the output on the chosen rows, and in a backward pass the gradients for a cotangent on these rows."""
    if not callee.case.differentiates:
        with torch.no_grad():
            return (attend(*callee.arguments(inputs))[..., rows_R, :],)
    out = attend(*callee.arguments(inputs))[..., rows_R, :]
    leaves = [*callee.compared(inputs).values()]
    cotangent = inputs.cotangent[..., : len(rows_R), :]
    return out.detach(), *torch.autograd.grad(out, leaves, cotangent, allow_unused=True, materialize_grads=True)


def _names(callee: Callee, inputs: Inputs | Tokens) -> tuple[str, ...]:
    """Return the names of `_results`."""
    return ("output", *(f"d{name}" for name in callee.compared(inputs) if callee.case.differentiates))


def _of_the_pass(results: Tensors) -> Tensors:
    """Return what the pass computes: the gradients if there are any, else the output."""
    return results[1:] or results


def _exact_results(workload: Workload, inputs: Inputs | Tokens, rows_R: torch.Tensor) -> Tensors:
    """Return `_results` of exact attention."""
    mask, layer = workload.case.mask, workload.callee.layer
    if isinstance(inputs, Tokens):
        assert layer is not None
        outputs = exact_outputs(layer.projections, inputs, mask=mask, rows_R=rows_R)
        if not workload.differentiates:
            return outputs
        return *outputs, *exact_layer_gradients(layer.projections, inputs, mask=mask, rows_R=rows_R)
    with torch.no_grad():
        out_BHRD = exact_attention(*inputs.tensors, mask=mask, rows_R=rows_R)
    return (out_BHRD, *exact_gradients(inputs, mask=mask, rows_R=rows_R)) if workload.differentiates else (out_BHRD,)


def _approximation_errors(own: Tensors, exact: Tensors, *, names: Sequence[str]) -> Values:
    """Compare what the pass computes with exact attention's; in a backward pass also each gradient, and the output."""
    results, wanted = _of_the_pass(own), _of_the_pass(exact)
    errors = {"approximation_error": relative_error(results, wanted), "cosine": cosine(results, wanted)}
    if len(own) > 1:
        for name, result, reference in zip(names, own, exact, strict=True):
            errors[f"approximation_error_{name}"] = relative_error((result,), (reference,))
    return errors


def _numerical_error(own: Tensors, twin: Callable[[], Tensors], *, seconds: float) -> tuple[Values, Facts]:
    """Compare with the mechanism's own results in float64, or return the reason why there are none."""
    if seconds > _LONGEST_CALL_S:
        reason = f"left out: a call took {seconds:.1f} s, and in float64 it takes several times that"
        return {}, {"numerical_error": reason}
    try:
        return {"numerical_error": relative_error(_of_the_pass(own), _of_the_pass(twin()))}, {}
    except Exception as error:
        if failure.status_of(error) in ("unsupported", "oom_host", "oom_device"):
            return {}, {"numerical_error": f"in float64: {failure.reason(error)}"}
        raise


def _twin_results(workload: Workload, job: Job, wide: Inputs | Tokens, rows_R: torch.Tensor) -> Tensors:
    """Return `_results` of the mechanism built again in float64, with the same weights."""
    twin = Callee(msgspec.structs.replace(job.case, dtype="float64"), registry.load(job.target))
    twin.copy_weights(workload.callee)
    return _results(repeatable(twin.call, seed=job.case.seed), twin, wide, rows_R=rows_R)


def _inspected(workload: Workload, *, call_s: float) -> tuple[Values, Facts]:
    """Measure the masses of the effective weights and the mask leak; return the reason for each that is left out."""
    values: Values = {}
    left_out: Facts = {}
    for metric, inspect in {"kept_mass": weights.inspect, "mask_leak": leaks.inspect}.items():
        try:
            values |= inspect(workload, call_s=call_s)
        except failure.LeftOut as why:
            left_out[metric] = f"left out: {why}"
        except Exception as error:  # such calls are no part of the contract: the other metrics stand
            left_out[metric] = f"left out: {failure.reason(error)}"
    return values, left_out


def _leak_flags(inspected: Mapping[str, float], workload: Workload) -> dict[str, tuple[str, ...]]:
    """Return flags by metric where tokens that the mask hides matter. Raises InvalidOutput for an exact mechanism."""
    bound = rounding(getattr(torch, workload.case.dtype), workload.case.shape.seq_k)
    leaking = [metric for metric in _LEAKS if metric in inspected and not inspected[metric] <= bound]
    if not leaking:
        return {}
    if workload.support.exact:
        amounts = ", ".join(f"{metric} {inspected[metric]:.2g}" for metric in leaking)
        raise InvalidOutput(f"it calls itself exact, and depends on tokens that the mask hides: {amounts}")
    flag = "later_tokens" if workload.case.mask.window is None else "hidden_tokens"
    return dict.fromkeys(("approximation_error", *leaking), (flag,))


def _check_finite(own: Tensors, names: Sequence[str]) -> None:
    """Raise InvalidOutput with the number of values that are not finite, for each result that has any."""
    wrong = []
    for name, result in zip(names, own, strict=True):
        count = int((~result.isfinite()).sum())
        if count:
            wrong.append(f"{count} of {result.numel()} values of {name} ({int(result.isnan().sum())} NaN)")
    if wrong:
        raise InvalidOutput(f"not finite: {', '.join(wrong)}")


def _check_exact(own: Tensors, exact: Tensors, *, plain: Tensors, names: Sequence[str], terms: int) -> None:
    """Raise InvalidOutput if an error exceeds twice the plain formula's in the same dtype, plus a sum's rounding.

    The rounding is that of a sum of `terms`: a matrix library adds in many lanes, a kernel that passes over the keys
    once adds one after another. Errors are relative to the output, or to all gradients together: a single gradient may
    be zero, as that of a query which sees one key is.
    """
    for name, result, wanted, simple in zip(names, own, exact, plain, strict=True):
        compared = exact[:1] if name == "output" else exact[1:]
        size = math.sqrt(sum(float(tensor.double().square().sum()) for tensor in compared)) or 1.0
        error, allowed = (float((tensor.double() - wanted).norm()) / size for tensor in (result, simple))
        room = torch.finfo(result.dtype).eps + summation(result.dtype, terms) + _REFERENCE_ROUNDING
        if not error <= 2 * allowed + room:
            raise InvalidOutput(
                f"it calls itself exact and errs by {error:.2g} in {name}; the plain formula in the same dtype errs by "
                f"{allowed:.2g}"
            )
