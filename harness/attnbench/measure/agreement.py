"""The agreement probe: how far a mechanism is from exact attention in float64, and from itself in float64."""

# B batch, H heads, T queries, R chosen query rows, D head dimension
import math
import time
from collections.abc import Callable, Sequence

import msgspec
import torch

from attnbench import registry, variant
from attnbench.measure import failure
from attnbench.measure.reference import chosen_rows, exact_attention
from attnbench.measure.workload import Inputs, Workload
from attnbench.record import Job, Measurement, Outcome
from attnbench.variant import Attention, InvalidOutput

Tensors = tuple[torch.Tensor, ...]

# Repeating a call in float64 costs several times the call; beyond this it is left out, and the figure is missing.
_LONGEST_CALL_S = 2.0
_NO_DIRECTION = 1e-12  # of the largest row's norm
_GRADIENTS = ("dq", "dk", "dv")


def measure(job: Job, tell: Callable[[str], None]) -> Outcome:
    """Compare output (or, in a backward pass, gradients) with exact attention's on the same inputs, in float64.

    Raises Unsupported, and InvalidOutput where a mechanism that calls itself exact errs more than twice as much as the
    plain formula in its dtype.
    """
    del tell  # an agreement job is a few calls
    workload = Workload.of(job, sets=2)
    inputs, mask = workload.sets[0], job.case.mask
    rows_R = chosen_rows(job.case.shape.seq_q, seed=job.case.seed, device=inputs.q_BHTD.device)

    def exactly(q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        return exact_attention(q_BHTD, k_BGSD, v_BGSD, mask=mask, rows_R=rows_R)

    def on_rows(attention: Attention) -> Attention:
        return lambda q, k, v: attention(q, k, v)[:, :, rows_R]

    started = time.perf_counter()
    own = _results(workload, on_rows(workload.watch), inputs)
    seconds = time.perf_counter() - started
    if not workload.differentiates:
        with torch.no_grad():
            workload.watch(*workload.sets[1].tensors)
    workload.judge()
    wide = _widened(inputs)
    exact = _results(workload, exactly, wide)
    error = relative_error(own, exact)
    if workload.support.exact:
        plain = relative_error(_results(workload, exactly, inputs), exact)
        _hold_to_exactness(error, plain=plain, dtype=inputs.q_BHTD.dtype)
    found = [_figure("approximation_error", error), _figure("cosine", cosine(own, exact), higher=True)]
    if workload.differentiates:
        pairs = zip(_GRADIENTS, own, exact, strict=False)
        found += [_figure(f"approximation_error_{name}", relative_error((a,), (b,))) for name, a, b in pairs]
    if seconds <= _LONGEST_CALL_S:
        found += _numerical_error(own, lambda: _results(workload, on_rows(_in_float64(workload, job)), wide))
    return Outcome(status="ok", measurements=tuple(found), backend=workload.backend, facts={"rows": len(rows_R)})


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


def _results(workload: Workload, attention: Attention, inputs: Inputs) -> Tensors:
    """Give the output on the chosen rows, or the gradients that a cotangent on those rows gives."""
    if not workload.differentiates:
        with torch.no_grad():
            return (attention(*inputs.tensors),)
    out_BHRD = attention(*inputs.tensors)
    cotangent_BHRD = inputs.grad_BHTD[:, :, : out_BHRD.shape[2]]
    wanted = list({id(tensor): tensor for tensor in inputs.tensors}.values())
    found = torch.autograd.grad(out_BHRD, wanted, cotangent_BHRD, allow_unused=True)
    return tuple(torch.zeros_like(w) if g is None else g for g, w in zip(found, wanted, strict=True))


def _widened(inputs: Inputs) -> Inputs:
    """Give the same numbers in float64; tied queries and keys stay one tensor."""
    q, v, grad = (_wide(tensor) for tensor in (inputs.q_BHTD, inputs.v_BGSD, inputs.grad_BHTD))
    k = q if inputs.k_BGSD is inputs.q_BHTD else _wide(inputs.k_BGSD)
    return Inputs(q_BHTD=q, k_BGSD=k, v_BGSD=v, grad_BHTD=grad)


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().double().requires_grad_(tensor.requires_grad)


def _numerical_error(own: Tensors, widely: Callable[[], Tensors]) -> list[Measurement]:
    """Compare with the mechanism's own float64 results; nothing where it does not serve float64 or has no room."""
    try:
        return [_figure("numerical_error", relative_error(own, widely()))]
    except Exception as error:
        if failure.status_of(error) in ("unsupported", "oom_host", "oom_device"):
            return []
        raise


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
