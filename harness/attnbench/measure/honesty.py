"""Checks after the timing that the timed calls computed what they gave: no answer is kept, faked or still to come.

They take a twelfth of the time of the calls at most: what is fast enough to be suspected leaves room for all.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from time import perf_counter_ns, process_time_ns, sleep
from typing import Any

import torch

from attnbench.contracts.variant import InvalidOutput
from attnbench.measure.checks import finite, output_like
from attnbench.measure.workload import Call, Workload

_SHARE = 1 / 12  # of the time in calls that checks may take
_KEPT, _FRESH = 4, 9  # calls that a check of a kept output takes, and all of them
# A call on unseen inputs may take so many times as long as one on the others, or so little; others may hold it up.
_FACTOR, _LEAST_NS, _TRIALS = 4, 2_000_000, 20
_LOOKS, _WATCH_S = 40, 0.01
_BUSY = 0.5  # of a core
# What the harness times and checks with, as it is before a plugin is imported.
_USED: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (time, ("perf_counter_ns", "perf_counter", "process_time", "process_time_ns", "monotonic", "sleep")),
    (torch, ("isfinite", "equal", "randn", "get_num_threads", "set_num_threads", "no_grad")),
    (torch.Tensor, ("sum", "view", "contiguous", "clone", "copy_", "detach", "double", "norm", "isfinite", "__sub__")),
    (torch.autograd, ("grad",)),
    (torch.cuda, ("synchronize", "Event")),
)
_OWN = {(place.__name__, name): getattr(place, name) for place, names in _USED for name in names}

Sync = Callable[[], object]


def check_tools(threads: int) -> None:
    """Raise InvalidOutput where a plugin has replaced what the harness measures with, or torch's number of threads."""
    replaced = [
        f"{place.__name__}.{name}"
        for place, names in _USED
        for name in names
        if getattr(place, name) is not _OWN[place.__name__, name]
    ]
    if replaced:
        raise InvalidOutput(f"the mechanism replaces {', '.join(replaced)}, which times and checks rest on")
    if torch.get_num_threads() != threads:
        raise InvalidOutput(
            f"the mechanism sets torch's threads to {torch.get_num_threads()}; --threads measures it with {threads}"
        )


def tasks() -> int:
    """Return the number of threads of this process; 0 where the system does not tell."""
    with suppress(OSError):
        return sum(1 for _ in Path("/proc/self/task").iterdir())
    return 0


def check(workload: Workload, samples_ns: Sequence[float], *, calls_ns: int) -> None:
    """Check the calls of a latency job, whose samples are per call. Changes the inputs. Raises InvalidOutput."""
    on_cpu = not workload.case.device.startswith("cuda")
    call_ns = median(samples_ns)
    room = _SHARE * calls_ns / max(call_ns, 1)
    (out, first), (kept, turn) = workload.returned, workload.kept
    _check_results(workload, kept)
    _check_done(out, first, workload.call_on(0))
    if room >= _KEPT:
        _check_again(first, workload.call_on(0), what="the first output")
        _check_again(kept, workload.call_on(turn), what="an output of the timed calls")
    if room >= _FRESH and not workload.differentiates and not workload.callee.has_state:
        _check_fresh(workload, call_ns, sync=_nothing if on_cpu else torch.cuda.synchronize)


def check_rest(tasks_before: int) -> None:
    """Raise InvalidOutput where the process goes on computing though no call is under way.

    `tasks_before` is the number of its threads before the mechanism was built: without more of them nothing can.
    """
    if 0 < tasks() <= tasks_before:
        return
    if all(_busy() > _BUSY for _ in range(_LOOKS)):  # OpenMP's own threads spin for 0.2 s at most
        raise InvalidOutput("the mechanism goes on computing after its calls have returned, in a thread of its own")


def _busy() -> float:
    """Return the cores that this process keeps busy while it sleeps."""
    wall, used = perf_counter_ns(), process_time_ns()
    sleep(_WATCH_S)
    return (process_time_ns() - used) / (perf_counter_ns() - wall)


def _check_results(workload: Workload, results: object) -> None:
    """Raise InvalidOutput for a kept output that is none, and for gradients that are not finite."""
    if not workload.differentiates:
        finite(output_like(results, workload.sets[0].tensors[0]))
        return
    assert isinstance(results, tuple)
    for gradient in results:
        if gradient is not None and not bool(torch.isfinite(gradient).all()):
            raise InvalidOutput("a gradient of the timed calls is NaN or infinite")


def _check_done(out: object, copied: object, again: Call) -> None:
    """Raise InvalidOutput where an output is another now, unless the mechanism has one buffer for all."""
    pairs = zip(_tensors(out), _tensors(copied), strict=True)
    changed = {now.data_ptr() for now, then in pairs if not torch.equal(now, then)}
    if changed and not changed & {tensor.data_ptr() for tensor in _tensors(again())}:
        raise InvalidOutput("an output changes after its call has returned: it is computed later, in a thread")


def _check_again(result: object, again: Call, *, what: str) -> None:
    """Raise InvalidOutput where a later result for the same inputs differs, unless any two do, as where they draw."""
    later = again()
    error, allowed = _difference(result, later)
    if math.isnan(error) or (error > allowed and _difference(again(), later)[0] <= allowed):
        raise InvalidOutput(f"{what} differs by {error:.2g} from a later answer to the same inputs")


def _difference(one: object, other: object) -> tuple[float, float]:
    """Return the largest relative difference of two results, and what rounding may make of it."""
    several, others = _tensors(one), _tensors(other)
    if [each.shape for each in several] != [each.shape for each in others]:
        return math.inf, 0.0
    pairs = zip(several, others, strict=True)
    found = [(float((a.double() - b.double()).norm()), float(b.double().norm()), a.dtype) for a, b in pairs]
    errors = [distance / size if size else distance for distance, size, _ in found]
    return max(errors, default=0.0), max((torch.finfo(dtype).eps ** 0.5 for _, _, dtype in found), default=0.0)


def _tensors(results: object) -> list[torch.Tensor]:
    several = results if isinstance(results, tuple) else (results,)
    return [each for each in several if isinstance(each, torch.Tensor)]


def _check_fresh(workload: Workload, call_ns: float, *, sync: Sync) -> None:
    """Raise InvalidOutput for answers that are kept by the address of the inputs, or by their content."""
    tensors = workload.sets[0].tensors
    with torch.no_grad():
        for tensor in {id(tensor): tensor for tensor in tensors}.values():
            tensor.neg_()
        attend, copies = workload.callee.call, _copies(tensors, 1.0)
        _check_again(attend(*tensors), lambda: attend(*copies), what="an output of changed inputs")
        seen, unseen_ns, seen_ns = workload.sets[-1].tensors, list[int](), list[int]()
        for trial in range(_TRIALS):
            unseen_ns.append(_taken_ns(workload, _copies(tensors, 0.9 - trial / 64), sync))
            if min(unseen_ns) <= max(_LEAST_NS, _FACTOR * call_ns):
                return
            _copies(seen, 1.0)  # so that both calls come after the same work
            seen_ns.append(_taken_ns(workload, seen, sync))
    if min(unseen_ns) <= _FACTOR * min(seen_ns):  # what is held up has nothing kept
        return
    raise InvalidOutput(
        f"a call on inputs that it has not seen takes {min(unseen_ns) / 1e6:.3g} ms, a timed one "
        f"{call_ns / 1e6:.3g} ms: answers are kept between calls"
    )


def _copies(tensors: tuple[torch.Tensor, ...], scale: float) -> tuple[torch.Tensor, ...]:
    """Return scaled copies of tensors at other addresses; a tensor that is there twice stays one."""
    copies = {id(tensor): tensor.detach() * scale for tensor in tensors}
    return tuple(copies[id(tensor)] for tensor in tensors)


def _taken_ns(workload: Workload, tensors: tuple[torch.Tensor, ...], sync: Sync) -> int:
    sync()
    start = perf_counter_ns()
    workload.callee.call(*tensors)
    sync()
    return perf_counter_ns() - start


def _nothing() -> None:
    """Wait for nothing: a call on the CPU has ended when it returns."""
