"""How much of exact attention a mechanism computes at a case's shape: which share of the keys, or all of it."""

import torch
from msgspec.structs import replace

from attnbench.contracts.case import Case, Option
from attnbench.contracts.metrics import TRAINED
from attnbench.contracts.reach import reach_of
from attnbench.contracts.record import Job
from attnbench.contracts.variant import support_of
from attnbench.measure import failure
from attnbench.measure.callee import Callee
from attnbench.measure.effective import repeatable, rounding
from attnbench.measure.reference import exact_attention
from attnbench.plugins import registry

_ROOM = 16  # roundings, as a mechanism may sum in another order


def facts(job: Job) -> dict[str, Option]:
    """Return the facts `exact`, `reach` and, of a trained model, `exact_here`; one that is unknown is left out.

    `exact` is the mechanism's own claim, `reach` the share of the visible keys that it sees; `exact_here` is measured.
    """
    if job.case.level != "core" or job.derived:
        return {}
    found: dict[str, Option] = {}
    try:
        plugin = registry.load(job.target)
        found["exact"] = exact = support_of(plugin).exact
        reach = reach_of(plugin, job.case)
    except Exception as error:  # a plugin's own count: what was measured stands without it
        return found | {"reach_unknown": failure.reason(error)}
    if reach is not None:
        found["reach"] = reach
    if job.probe.kind in TRAINED:  # they are short: a mechanism may be exact there, whatever it is at other lengths
        found["exact_here"] = exact or is_exact_at(job.case, plugin)
    return found


def is_exact_at(case: Case, plugin: object) -> bool:
    """Return whether a mechanism returns exact attention at a case's shape and mask, up to rounding.

    It is called once on normal inputs of one sequence, whose attention is spread over all keys: a key that it leaves
    out would show. False where it cannot be called.
    """
    dtype = "float64" if "float64" in support_of(plugin).dtypes else "float32"
    one = replace(case, shape=replace(case.shape, batch=1), dtype=dtype, passes="forward", inputs="normal")
    try:
        callee = Callee(one, plugin)
        (inputs,) = callee.draw(1)
        with torch.no_grad():
            out_BHTD = repeatable(callee.call, seed=case.seed)(*callee.arguments(inputs))
            exact_BHTD = exact_attention(*(tensor.double() for tensor in inputs.tensors), mask=case.mask)
    except Exception:  # it is asked at a shape that may not be its own
        return False
    error = float((out_BHTD.double() - exact_BHTD).norm() / exact_BHTD.norm())
    return error <= _ROOM * rounding(getattr(torch, dtype), case.shape.seq_k)
