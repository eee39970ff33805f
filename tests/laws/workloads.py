"""What the laws run over: every registered mechanism, on every small workload that it defines."""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension

import functools
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest
import torch

from attnbench import Attention, Case, Mask, Shape, Unsupported
from attnbench.contracts.case import Option
from attnbench.contracts.variant import build, complete_options, support_of
from attnbench.plugins.registry import Entry, entries, load
from helpers.subtests import as_subtests
from references import REFERENCES
from references.reference import Law

Qkv = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Decorator = Callable[[Callable[..., None]], Callable[..., None]]

# A variant of the harness's own package is a floor of the measurement (`empty`), not a mechanism.
MECHANISMS: dict[str, Entry] = {
    name: entry
    for name, claims in entries("variants").items()
    for entry in claims
    if not entry.target.startswith("attnbench.")
}


def _obeys(name: str, entry: Entry) -> bool:
    """Return whether the laws are run over a mechanism: not if it starts from tokens, needs a GPU, or is `alone`."""
    support = support_of(load(entry.target))
    return support.level == "core" and "cpu" in support.devices and not (name in REFERENCES and REFERENCES[name].alone)


ENTRIES = {name: entry for name, entry in MECHANISMS.items() if _obeys(name, entry)}


def _case(
    queries: int, keys: int | None = None, *, kv_heads: int = 2, mask: Mask | None = None, passes: str = ""
) -> Case:
    shape = Shape(batch=2, heads=2, kv_heads=kv_heads, seq_q=queries, seq_k=keys or queries, head_dim=4)
    return Case(variant="", shape=shape, mask=mask or Mask(), dtype="float64", passes=passes, seed=3)


CAUSAL = Mask(causal=True)
WORKLOADS: dict[str, Case] = {
    "full": _case(21),
    "full-1": _case(1),
    "full-3": _case(3),
    "full-16": _case(16),
    "full-grouped": _case(13, kv_heads=1),
    "full-window": _case(13, mask=Mask(window=4)),
    "full-fewer-queries": _case(5, 21),
    "full-more-queries": _case(21, 5),
    "full-decode": _case(1, 21, passes="decode"),
    "causal": _case(21, mask=CAUSAL),
    "causal-1": _case(1, mask=CAUSAL),
    "causal-3": _case(3, mask=CAUSAL),
    "causal-16": _case(16, mask=CAUSAL),
    "causal-grouped": _case(13, kv_heads=1, mask=CAUSAL),
    "causal-window": _case(13, mask=Mask(causal=True, window=4)),
    "causal-fewer-queries": _case(6, 21, mask=CAUSAL),
    "causal-fewer-queries-window": _case(6, 21, mask=Mask(causal=True, window=4)),
    "causal-more-queries": _case(21, 5, mask=CAUSAL),
    "causal-decode": _case(1, 21, mask=CAUSAL, passes="decode"),
}


def variant(name: str) -> Any:
    """Import a registered variant; whatever its import raises fails the test."""
    return load(MECHANISMS[name].target)


def case_for(name: str, workload: Case, options: Mapping[str, Option] | None = None, **changes: Any) -> Case:
    """Return a workload as a variant's case, with options under which its short sequence is long."""
    given = REFERENCES[name].options[0] if options is None else options
    complete = msgspec.structs.asdict(complete_options(variant(name), given))
    return msgspec.structs.replace(workload, variant=name, options=complete, **changes)


def built(name: str, case: Case) -> Attention:
    return build(variant(name), case)


@functools.cache
def defines(name: str, workload: str) -> bool:
    """Return whether a variant serves a workload. One that fails to import or to build counts: its laws fail."""
    try:
        built(name, case_for(name, WORKLOADS[workload]))
    except Unsupported:
        return False
    except Exception:
        return True
    return True


def each(*workloads: str, rest: tuple[str, ...] = ()) -> Decorator:
    """Run a law over every mechanism; see `each_that`."""
    return each_that(lambda _: True, *workloads, rest=rest)


def each_that(keeps: Callable[[str], bool], *workloads: str, rest: tuple[str, ...] = ()) -> Decorator:
    """Run a law over mechanisms of a kind: a test for each, with a subtest for each workload that it defines.

    The workloads are those named, or all. What stands in `rest` of them is left to the exhaustive tests.
    """
    chosen = workloads or tuple(WORKLOADS)
    quick = tuple(one for one in chosen if one not in rest)
    items = [*_items(keeps, quick), *_items(keeps, rest, suffix="-rest", marks=pytest.mark.exhaustive)]

    def decorate(law: Callable[..., None]) -> Callable[..., None]:
        over_workloads = as_subtests("workload", lambda workloads: workloads)(law)
        return pytest.mark.parametrize(("name", "workloads"), items)(over_workloads)

    return decorate


def _items(keeps: Callable[[str], bool], workloads: tuple[str, ...], *, suffix: str = "", marks: Any = ()) -> list[Any]:
    """Pair each mechanism with those of the workloads that it defines, if there are any."""
    defined = {name: [one for one in workloads if defines(name, one)] for name in ENTRIES if keeps(name)}
    return [pytest.param(name, its, id=name + suffix, marks=marks) for name, its in defined.items() if its]


def mask_of(name: str) -> Mask:
    """Return the full mask, or the causal one for a mechanism that has only its causal form."""
    return Mask() if support_of(variant(name)).full is True else CAUSAL


def ties(name: str) -> bool:
    return support_of(variant(name)).ties_qk


def breaks(name: str, law: Law) -> bool:
    """Return whether a mechanism declares that it does not keep a law."""
    return law in REFERENCES[name].breaks


def draw(name: str, case: Case, *, seed: int = 0) -> Qkv:
    """Draw inputs in the case's dtype; a variant that ties queries and keys is given the same tensor for both."""
    shape, generator = case.shape, torch.Generator().manual_seed(seed)
    sizes = [(shape.heads, shape.seq_q), (shape.kv_heads, shape.seq_k), (shape.kv_heads, shape.seq_k)]
    q, k, v = (
        torch.randn(shape.batch, heads, length, shape.head_dim, generator=generator, dtype=torch.float64)
        .to(getattr(torch, case.dtype))
        .requires_grad_()
        for heads, length in sizes
    )
    return (q, q, v) if ties(name) else (q, k, v)


def leaves(qkv: Qkv) -> list[torch.Tensor]:
    """Return the inputs, one that stands for both queries and keys once."""
    return [x for i, x in enumerate(qkv) if all(x is not earlier for earlier in qkv[:i])]


def weights_of(attention: Attention) -> list[torch.Tensor]:
    """Return the parameters of a mechanism."""
    return list(attention.parameters()) if isinstance(attention, torch.nn.Module) else []


def assert_near(value: torch.Tensor, true: torch.Tensor, tolerance: float) -> None:
    """Compare by the relative Frobenius error, or, where the true value is near zero, relative to 0.001."""
    value, true = value.detach().double(), true.detach().double()
    error = float((value - true).norm() / max(true.norm(), 1e-3))
    if error <= tolerance:
        return
    value, true = torch.broadcast_tensors(value, true)
    farthest = (value - true).abs().nan_to_num(nan=torch.inf).argmax()
    place = tuple(int(i) for i in torch.unravel_index(farthest, true.shape))
    raise AssertionError(
        f"off by {error:.3g} of its norm, at most {tolerance:g} allowed; "
        f"the farthest, at {list(place)}: expected {float(true[place]):.9g}, found {float(value[place]):.9g}"
    )
