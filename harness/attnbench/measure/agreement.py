"""The agreement probe: how far a mechanism is from exact attention in float64, and from itself in float64."""

# B batch, H heads, T queries, R chosen query rows, D head dimension
import math
import time
from collections.abc import Callable, Sequence
from functools import partial

import msgspec
import torch

from attnbench import registry, variant
from attnbench.case import Option
from attnbench.measure import failure
from attnbench.measure.reference import chosen_rows, exact_attention, exact_gradients
from attnbench.measure.workload import Inputs, Workload
from attnbench.record import Job, Measurement, Outcome
from attnbench.variant import Attention, InvalidOutput

Tensors = tuple[torch.Tensor, ...]
Found = tuple[list[Measurement], dict[str, Option]]

# Repeating a call in float64 costs several times the call; beyond this it is left out, and the figure is missing.
_LONGEST_CALL_S = 2.0
_NO_DIRECTION = 1e-12  # of the largest row's norm
_REFERENCE = "the float64 reference"


def measure(job: Job, tell: Callable[[str], None]) -> Outcome:
    """Compare output (or, in a backward pass, gradients) with exact attention's on the same inputs, in float64.

    Raises Unsupported, and InvalidOutput where a mechanism that calls itself exact errs more than twice as much as the
    plain formula in its dtype.
    """
    del tell  # an agreement job is a few calls
    workload = Workload.of(job, sets=2)
    inputs = workload.sets[0]
    rows_R = chosen_rows(job.case.shape.seq_q, seed=job.case.seed, device=inputs.q_BHTD.device)
    started = time.perf_counter()
    own = _results(_checked(workload), inputs, rows_R, gradients=workload.differentiates)
    seconds = time.perf_counter() - started
    if seconds <= _LONGEST_CALL_S:
        with torch.no_grad():
            workload.watch(*workload.sets[1].tensors)
    workload.judge()
    with failure.on_account_of(_REFERENCE):
        wide = _widened(inputs)
        exact = _exact_results(workload, wide, rows_R)
        if workload.support.exact:
            plain = relative_error(_exact_results(workload, inputs, rows_R), exact)
            _hold_to_exactness(relative_error(own, exact), plain=plain, dtype=inputs.q_BHTD.dtype)
    twin = partial(_twin_results, workload, job, wide, rows_R)
    numerical, left_out = _numerical_error(own, twin, seconds=seconds)
    return Outcome(
        status="ok",
        measurements=(*_approximation_errors(own, exact, tied=inputs.tied), *numerical),
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


def _checked(workload: Workload) -> Attention:
    """Give the mechanism with its output examined at once: what is no attention output cannot be compared either."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = workload.watch(q, k, v)
        workload.examine()
        return out

    return attend


def _results(attention: Attention, inputs: Inputs, rows_R: torch.Tensor, *, gradients: bool) -> Tensors:
    """Give the output on the chosen rows, or the gradients that a cotangent on those rows gives."""
    if not gradients:
        with torch.no_grad():
            return (attention(*inputs.tensors)[:, :, rows_R],)
    out_BHRD = attention(*inputs.tensors)[:, :, rows_R]
    cotangent_BHRD = inputs.grad_BHTD[:, :, : len(rows_R)]
    found = torch.autograd.grad(out_BHRD, inputs.distinct, cotangent_BHRD, allow_unused=True)
    return tuple(torch.zeros_like(w) if g is None else g for g, w in zip(found, inputs.distinct, strict=True))


def _exact_results(workload: Workload, inputs: Inputs, rows_R: torch.Tensor) -> Tensors:
    """Give what exact attention gives where `_results` asks the mechanism."""
    mask = workload.case.mask
    if workload.differentiates:
        return exact_gradients(inputs, mask=mask, rows_R=rows_R)
    with torch.no_grad():
        return (exact_attention(*inputs.tensors, mask=mask, rows_R=rows_R),)


def _widened(inputs: Inputs) -> Inputs:
    """Give the same numbers in float64; tied queries and keys stay one tensor."""
    q, v, grad = (_wide(tensor) for tensor in (inputs.q_BHTD, inputs.v_BGSD, inputs.grad_BHTD))
    k = q if inputs.tied else _wide(inputs.k_BGSD)
    return Inputs(q_BHTD=q, k_BGSD=k, v_BGSD=v, grad_BHTD=grad)


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().double().requires_grad_(tensor.requires_grad)


def _approximation_errors(own: Tensors, exact: Tensors, *, tied: bool) -> list[Measurement]:
    """Compare with exact attention: all together, and each gradient where there are gradients."""
    error = _figure("approximation_error", relative_error(own, exact))
    found = [error, _figure("cosine", cosine(own, exact), higher=True)]
    if len(own) > 1:
        names = ("dq", "dv") if tied else ("dq", "dk", "dv")
        pairs = zip(names, own, exact, strict=True)
        found += [_figure(f"approximation_error_{name}", relative_error((a,), (b,))) for name, a, b in pairs]
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


def _twin_results(workload: Workload, job: Job, wide: Inputs, rows_R: torch.Tensor) -> Tensors:
    return _results(_in_float64(workload, job), wide, rows_R, gradients=workload.differentiates)


def _in_float64(workload: Workload, job: Job) -> Attention:
    """Build the mechanism again in float64, with the same weights."""
    twin = variant.build(registry.load(job.target), msgspec.structs.replace(job.case, dtype="float64"))
    if isinstance(twin, torch.nn.Module) and isinstance(workload.attention, torch.nn.Module):
        twin.load_state_dict(workload.attention.state_dict())
    return twin


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
