"""The agreement probe: how far a mechanism is from exact attention in float64, and from itself in float64.

Besides, how much of exact attention's weight it keeps, and whether it depends on what the mask hides from it.
"""

# B batch, H heads, T queries, R chosen query rows, D head dimension
import math
import time
from collections.abc import Callable, Sequence
from functools import partial

import msgspec
import torch

from attnbench import registry, variant
from attnbench.case import Option
from attnbench.measure import failure, leaks, weights
from attnbench.measure.effective import repeatable
from attnbench.measure.figure import figure
from attnbench.measure.reference import chosen_rows, exact_attention, exact_gradients
from attnbench.measure.workload import Inputs, Workload
from attnbench.record import Job, Measurement, Outcome
from attnbench.variant import Attention, InvalidOutput

Tensors = tuple[torch.Tensor, ...]
Found = tuple[list[Measurement], dict[str, Option]]

# Repeating a call in float64 costs several times the call; beyond this it is left out, and the figure is missing.
_LONGEST_CALL_S = 2.0
_REFERENCE_ROUNDING = 1e-14  # beside which a result in float64 cannot be held to less
_NO_DIRECTION = 1e-12  # of the largest row's norm
_REFERENCE = "the float64 reference"


def measure(job: Job, tell: Callable[[str], None]) -> Outcome:
    """Compare output and, in a backward pass, gradients with exact attention's on the same inputs, in float64.

    Raises Unsupported; InvalidOutput for gradients that are not finite, and where a mechanism that calls itself exact
    errs more than twice as much as the plain formula in its dtype, or depends on what the mask hides.
    """
    del tell  # an agreement job is a few seconds of calls
    workload = Workload.of(job, sets=2)
    inputs = workload.sets[0]
    rows_R = chosen_rows(job.case.shape.seq_q, seed=job.case.seed, device=inputs.q_BHTD.device)
    started = time.perf_counter()
    attend = repeatable(_checked(workload), seed=job.case.seed)
    own = _results(attend, inputs, rows_R, gradients=workload.differentiates)
    seconds = time.perf_counter() - started
    call_s = _second_call_s(workload) if seconds <= _LONGEST_CALL_S else seconds
    workload.judge()
    names = _names(inputs, gradients=workload.differentiates)
    _hold_to_finiteness(own, names)
    with failure.on_account_of(_REFERENCE):
        wide = _widened(inputs)
        exact = _exact_results(workload, wide, rows_R)
        if workload.support.exact:
            _hold_to_exactness(own, exact, plain=_exact_results(workload, inputs, rows_R), names=names)
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


def _checked(workload: Workload) -> Attention:
    """Give the mechanism with its output examined at once: what is no attention output cannot be compared either."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = workload.watch(q, k, v)
        workload.examine()
        return out

    return attend


def _second_call_s(workload: Workload) -> float:
    """Ask for a second answer, by which a kept one is found; give the seconds that it takes."""
    started = time.perf_counter()
    with torch.no_grad():
        workload.watch(*workload.sets[1].tensors)
        workload.examine()  # which waits for the device
    return time.perf_counter() - started


def _results(attention: Attention, inputs: Inputs, rows_R: torch.Tensor, *, gradients: bool) -> Tensors:
    """Give the output on the chosen rows, and with `gradients` those that a cotangent on these rows gives."""
    if not gradients:
        with torch.no_grad():
            return (attention(*inputs.tensors)[:, :, rows_R],)
    out_BHRD = attention(*inputs.tensors)[:, :, rows_R]
    cotangent_BHRD = inputs.grad_BHTD[:, :, : len(rows_R)]
    found = torch.autograd.grad(out_BHRD, inputs.distinct, cotangent_BHRD, allow_unused=True, materialize_grads=True)
    return out_BHRD.detach(), *found


def _names(inputs: Inputs, *, gradients: bool) -> tuple[str, ...]:
    """Name what `_results` gives."""
    if not gradients:
        return ("output",)
    return ("output", "dq", "dv") if inputs.tied else ("output", "dq", "dk", "dv")


def _of_the_pass(results: Tensors) -> Tensors:
    """Give what the pass computes: gradients where there are any, else the output."""
    return results[1:] or results


def _exact_results(workload: Workload, inputs: Inputs, rows_R: torch.Tensor) -> Tensors:
    """Give what exact attention gives where `_results` asks the mechanism."""
    mask = workload.case.mask
    with torch.no_grad():
        out_BHRD = exact_attention(*inputs.tensors, mask=mask, rows_R=rows_R)
    return (out_BHRD, *exact_gradients(inputs, mask=mask, rows_R=rows_R)) if workload.differentiates else (out_BHRD,)


def _widened(inputs: Inputs) -> Inputs:
    """Give the same numbers in float64; tied queries and keys stay one tensor."""
    q, v, grad = (_wide(tensor) for tensor in (inputs.q_BHTD, inputs.v_BGSD, inputs.grad_BHTD))
    k = q if inputs.tied else _wide(inputs.k_BGSD)
    return Inputs(q_BHTD=q, k_BGSD=k, v_BGSD=v, grad_BHTD=grad)


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().double().requires_grad_(tensor.requires_grad)


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


def _twin_results(workload: Workload, job: Job, wide: Inputs, rows_R: torch.Tensor) -> Tensors:
    attend = repeatable(_in_float64(workload, job), seed=job.case.seed)
    return _results(attend, wide, rows_R, gradients=workload.differentiates)


def _in_float64(workload: Workload, job: Job) -> Attention:
    """Build the mechanism again in float64, with the same weights."""
    twin = variant.build(registry.load(job.target), msgspec.structs.replace(job.case, dtype="float64"))
    if isinstance(twin, torch.nn.Module) and isinstance(workload.attention, torch.nn.Module):
        twin.load_state_dict(workload.attention.state_dict())
    return twin


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


def _hold_to_exactness(own: Tensors, exact: Tensors, *, plain: Tensors, names: Sequence[str]) -> None:
    """Hold each result's error to twice the plain formula's in its dtype, and a rounding of all of its kind.

    (A gradient may be nothing at all, and be rounded beside the others: that of a query which sees one key.)
    """
    for name, ours, wanted, theirs in zip(names, own, exact, plain, strict=True):
        of_its_kind = exact[:1] if name == "output" else exact[1:]
        size = math.sqrt(sum(float(each.double().square().sum()) for each in of_its_kind)) or 1.0
        error, allowed = (float((each.double() - wanted).norm()) / size for each in (ours, theirs))
        if not error <= 2 * allowed + torch.finfo(ours.dtype).eps + _REFERENCE_ROUNDING:
            raise InvalidOutput(
                f"it calls itself exact and errs by {error:.2g} in {name}; the plain formula in the same dtype errs by "
                f"{allowed:.2g}"
            )
