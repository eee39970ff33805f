"""The agreement probe: how far a mechanism is from exact attention in float64, and from itself in float64.

Besides, how much of exact attention's weight it keeps, and whether it depends on what the mask hides from it.
"""

# B batch, H heads, T queries, R chosen query rows, D head dimension; at layer level tensors are BTE, E width
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec
import torch

from attnbench.contracts.case import Option
from attnbench.contracts.record import Job, Measurement, Outcome
from attnbench.contracts.variant import InvalidOutput, Unsupported
from attnbench.measure import failure, leaks, weights
from attnbench.measure.callee import Attend, Callee
from attnbench.measure.effective import repeatable, summation
from attnbench.measure.figure import figure
from attnbench.measure.inputs import Inputs, Tokens
from attnbench.measure.layer import exact_layer_gradients, exact_outputs
from attnbench.measure.reference import chosen_rows, exact_attention, exact_gradients
from attnbench.measure.workload import Workload
from attnbench.plugins import registry

Tensors = tuple[torch.Tensor, ...]
Found = tuple[list[Measurement], dict[str, Option]]

# Repeating a call in float64 costs several times the call; beyond this it is left out, and the figure is missing.
_LONGEST_CALL_S = 2.0
_REFERENCE_ROUNDING = 1e-14  # beside which a result in float64 cannot be held to less
_NO_DIRECTION = 1e-12  # of the largest row's norm
_REFERENCE = "the float64 reference"


def measure(job: Job, tell: Callable[[str], None]) -> Outcome:
    """Compare output and, in a backward pass, gradients with exact attention's on the same inputs, in float64.

    At layer level exact attention stands between the same projections, whose gradients are compared too.
    Raises Unsupported; InvalidOutput for gradients that are not finite, and where a mechanism that calls itself exact
    errs more than twice as much as the plain formula in its dtype, rounding aside, or depends on what the mask hides.
    """
    del tell  # an agreement job is a few seconds of calls
    workload = Workload.of(job, sets=2)
    if workload.support.level == "layer":
        raise Unsupported("it starts from tokens: there are no queries, keys and values to give to exact attention")
    inputs = workload.sets[0]
    rows_R = chosen_rows(job.case.shape.seq_q, seed=job.case.seed, device=inputs.tensors[0].device)
    started = time.perf_counter()
    attend = repeatable(_checked(workload), seed=job.case.seed)
    own = _results(attend, workload.callee, inputs, rows_R=rows_R)
    seconds = time.perf_counter() - started
    call_s = _second_call_s(workload) if seconds <= _LONGEST_CALL_S else seconds
    workload.judge()
    names = _names(workload.callee, inputs)
    _hold_to_finiteness(own, names)
    with failure.on_account_of(_REFERENCE):
        wide = inputs.widened()
        exact = _exact_results(workload, wide, rows_R)
        if workload.support.exact:
            plain, shape = _exact_results(workload, inputs, rows_R), job.case.shape
            _hold_to_exactness(own, exact, plain=plain, names=names, terms=max(shape.seq_q, shape.seq_k))
    looks, why_not = _looks(workload, call_s=call_s)
    flags = _hold_to_mask(looks, workload)
    twin = partial(_twin_results, workload, job, wide, rows_R)
    numerical, left_out = _numerical_error(own, twin, seconds=seconds)
    return Outcome(
        status="ok",
        measurements=(*_approximation_errors(own, exact, names=names, flags=flags), *numerical, *looks),
        backend=workload.backend,
        facts={"rows": len(rows_R)} | left_out | why_not,
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


def _second_call_s(workload: Workload) -> float:
    """Ask for a second answer, by which a kept one is found; give the seconds that it takes."""
    arguments = workload.callee.arguments(workload.sets[1])
    started = time.perf_counter()
    with torch.no_grad():
        workload.watch(*arguments)
        workload.examine()  # which waits for the device
    return time.perf_counter() - started


def _results(attend: Attend, callee: Callee, inputs: Inputs | Tokens, *, rows_R: torch.Tensor) -> Tensors:
    """Give the output on the chosen rows, and in a backward pass the gradients that a cotangent on these rows gives."""
    if not callee.case.differentiates:
        with torch.no_grad():
            return (attend(*callee.arguments(inputs))[..., rows_R, :],)
    out = attend(*callee.arguments(inputs))[..., rows_R, :]
    leaves = [*callee.leaves(inputs).values()]
    cotangent = inputs.cotangent[..., : len(rows_R), :]
    return out.detach(), *torch.autograd.grad(out, leaves, cotangent, allow_unused=True, materialize_grads=True)


def _names(callee: Callee, inputs: Inputs | Tokens) -> tuple[str, ...]:
    """Name what `_results` gives."""
    return ("output", *(f"d{name}" for name in callee.leaves(inputs) if callee.case.differentiates))


def _of_the_pass(results: Tensors) -> Tensors:
    """Give what the pass computes: gradients where there are any, else the output."""
    return results[1:] or results


def _exact_results(workload: Workload, inputs: Inputs | Tokens, rows_R: torch.Tensor) -> Tensors:
    """Give what exact attention gives where `_results` asks the mechanism."""
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


def _approximation_errors(
    own: Tensors, exact: Tensors, *, names: Sequence[str], flags: tuple[str, ...]
) -> list[Measurement]:
    """Compare what the pass computes with exact attention's; where that is gradients, each, and the output as well."""
    ours, wanted = _of_the_pass(own), _of_the_pass(exact)
    error = figure("approximation_error", relative_error(ours, wanted), flags=flags)
    found = [error, figure("cosine", cosine(ours, wanted), higher=True)]
    if len(own) > 1:
        pairs = zip(names, own, exact, strict=True)
        found += [figure(f"approximation_error_{name}", relative_error((a,), (b,))) for name, a, b in pairs]
    return found


def _numerical_error(own: Tensors, twin: Callable[[], Tensors], *, seconds: float) -> Found:
    """Compare with the mechanism's own float64 results; say why not where it does not serve float64 or has no room."""
    if seconds > _LONGEST_CALL_S:
        reason = f"left out: a call took {seconds:.1f} s, and in float64 it takes several times that"
        return [], {"numerical_error": reason}
    try:
        return [figure("numerical_error", relative_error(_of_the_pass(own), _of_the_pass(twin())))], {}
    except Exception as error:
        if failure.status_of(error) in ("unsupported", "oom_host", "oom_device"):
            return [], {"numerical_error": f"in float64: {failure.reason(error)}"}
        raise


def _twin_results(workload: Workload, job: Job, wide: Inputs | Tokens, rows_R: torch.Tensor) -> Tensors:
    """Build the mechanism again in float64, with the same weights, and give its results."""
    twin = Callee(msgspec.structs.replace(job.case, dtype="float64"), registry.load(job.target))
    twin.take_weights(workload.callee)
    return _results(repeatable(twin.call, seed=job.case.seed), twin, wide, rows_R=rows_R)


def _looks(workload: Workload, *, call_s: float) -> Found:
    """Look at the effective weights, and for what is hidden and matters; of what is left out, say why."""
    found: list[Measurement] = []
    left_out: dict[str, Option] = {}
    for metric, look in {"kept_mass": weights.look, "mask_leak": leaks.look}.items():
        try:
            found += look(workload, call_s=call_s)
        except failure.LeftOut as why:
            left_out[metric] = f"left out: {why}"
        except Exception as error:  # what was asked here is no part of the contract: the other figures stand
            left_out[metric] = f"left out: {failure.reason(error)}"
    return found, left_out


def _hold_to_mask(looks: Sequence[Measurement], workload: Workload) -> tuple[str, ...]:
    """Give the flag under which a look found that hidden tokens matter; for an exact mechanism raise InvalidOutput."""
    flag = leaks.flag_of(workload.case.mask)
    leaking = [each for each in looks if flag in each.flags]
    if leaking and workload.support.exact:
        told = ", ".join(f"{each.metric} {each.values[0] or math.nan:.2g}" for each in leaking)
        raise InvalidOutput(f"it calls itself exact, and depends on tokens that the mask hides: {told}")
    return (flag,) if leaking else ()


def _hold_to_finiteness(own: Tensors, names: Sequence[str]) -> None:
    """Raise InvalidOutput with the number of values that are not finite, of each gradient that has any."""
    told = []
    for name, each in zip(names, own, strict=True):
        wrong = int((~each.isfinite()).sum())
        if wrong:
            told.append(f"{wrong} of {each.numel()} values of {name} ({int(each.isnan().sum())} NaN)")
    if told:
        raise InvalidOutput(f"not finite: {', '.join(told)}")


def _hold_to_exactness(own: Tensors, exact: Tensors, *, plain: Tensors, names: Sequence[str], terms: int) -> None:
    """Hold each result's error to twice the plain formula's in its dtype, and the roundings of a sum of so many terms.

    A matrix library adds in many lanes, a kernel that passes over the keys once adds one after another. (A gradient may
    be nothing at all, and be rounded beside the others: that of a query which sees one key.)
    """
    for name, ours, wanted, theirs in zip(names, own, exact, plain, strict=True):
        of_its_kind = exact[:1] if name == "output" else exact[1:]
        size = math.sqrt(sum(float(each.double().square().sum()) for each in of_its_kind)) or 1.0
        error, allowed = (float((each.double() - wanted).norm()) / size for each in (ours, theirs))
        room = torch.finfo(ours.dtype).eps + summation(ours.dtype, terms) + _REFERENCE_ROUNDING
        if not error <= 2 * allowed + room:
            raise InvalidOutput(
                f"it calls itself exact and errs by {error:.2g} in {name}; the plain formula in the same dtype errs by "
                f"{allowed:.2g}"
            )
