"""The longest context that fits: the lengths to try next and the result, from the rows of memory jobs.

The next length is predicted from the memory that the lengths so far have needed, as a sum of powers of the length.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from attnbench.analysis.crossover import middle
from attnbench.analysis.rows import Row
from attnbench.contracts.case import Case
from attnbench.contracts.errors import UsageError
from attnbench.contracts.ranges import parse_range
from attnbench.contracts.record import BUILDING, HELD, PENDING, Job, Status
from attnbench.contracts.suite import Sweep, overlay
from attnbench.store import Fit, Plan

Stop = Literal["memory", "time", "support", "the end of --seq", "the time budget", "an error", "enough trials", ""]
METRIC = "longest_context"
_UNTIL = "512..1024k"  # the default of --seq
_FIRST = 3  # lengths that a prediction starts from
_MOST_ROWS = 16  # of one variant: a search that has not ended then is not worth its time
_STEP = 4  # largest ratio of the next length to the longest that ran, so that a wrong prediction costs little
_CLOSE = 1.05  # ratio of the shortest length that failed to the longest that ran at which a search ends
_SURE = 0.98  # share of a predicted length that is tried: one that is a little too long fails, and tells less
_POWERS = (0.0, 1.0, 1.5, 2.0)
_LONGEST = 2**31
_STOPS: dict[Status, Stop] = {
    "oom_host": "memory",
    "oom_device": "memory",
    "timeout": "time",
    "unsupported": "support",
    "skipped": "the time budget",
}


class Context(Struct, frozen=True, kw_only=True):
    """A variant's longest context: `row` is the row of the longest length that ran, else of the first.

    `failed` is the shortest length above it that did not run, `stopped` what ended the search there, empty while it
    goes on. `predicted` is the prediction from the first lengths alone; null where that is 2^31 or more.
    """

    row: Row
    longest: int | None
    failed: int | None
    stopped: Stop
    detail: str
    predicted: int | None


def first_lengths(sweep: Sweep, asked: Sweep) -> tuple[Sweep, Fit]:
    """Return the sweep that a search begins with, memory at its first lengths, and the search itself.

    `asked` holds the flags alone. Raises UsageError for a sweep that such a search cannot follow.
    """
    if asked.metrics not in (None, "memory"):
        raise UsageError("--fit: it measures memory alone; leave --metrics out")
    for flag, value in (("--tokens", asked.tokens), ("--seq-k", asked.seq_k)):
        if value is not None:
            raise UsageError(f"--fit: it looks for one length, and {flag} makes another of it; leave {flag} out")
    if sweep.shapes is not None:
        raise UsageError("--fit: the suite lists shapes, each of one length; name a suite that sweeps --seq")
    lengths = parse_range(str(asked.seq or _UNTIL), flag="--seq")
    first = lengths[:_FIRST]
    searched = Sweep(seq=",".join(map(str, first)), metrics="memory")
    if sweep.tokens is not None:  # the suite's own: a batch that shrinks would make room for longer sequences
        searched = overlay(searched, Sweep(batch=1))
    return overlay(sweep, searched), Fit(lengths=first, most=lengths[-1])


def further_lengths(rows: Iterable[Row], plan: Plan) -> list[Job]:
    """Return the jobs that a search calls for next: one more length of each variant whose search is not over."""
    if plan.fit is None:
        return []
    templates = {_family(job.case, str(job.origin)): job for job in plan.jobs}
    jobs = []
    for family, curve in _curves(rows).items():
        length = next_length(curve, plan.fit)
        if length is not None:
            template = templates[family]
            jobs.append(replace(template, case=at_length(template.case, length)))
    return jobs


def contexts(rows: Iterable[Row], fit: Fit) -> list[Context]:
    """Return the longest context of each variant, as far as its rows tell."""
    return [_context(curve, fit) for curve in _curves(rows).values()]


def context_rows(rows: Iterable[Row], fit: Fit | None) -> list[Row]:
    """Return a row for each variant's longest context: the length that ran, up to the one that did not."""
    return [] if fit is None else [_as_row(context) for context in contexts(rows, fit)]


def next_length(curve: Mapping[int, Row], fit: Fit) -> int | None:
    """Return the length to try next: the predicted one, at most a step ahead; then between success and failure.

    None where the search is over: the end is reached, success and failure are close, or nothing ran.
    """
    context = _context(curve, fit)
    if context.stopped or context.longest is None or any(row.detail == PENDING for row in curve.values()):
        return None
    longest, end = context.longest, context.failed or fit.most + 1
    predicted = predicted_length(_needs(curve), fit.allowed_bytes)
    aim = min(longest * _STEP, fit.most)
    if predicted is not None and longest * _CLOSE < predicted * _SURE < end / _CLOSE:
        aim = min(aim, int(predicted * _SURE))
    elif predicted is not None and predicted * _SURE <= longest * _CLOSE:
        aim = min(aim, int(longest * _CLOSE**2))
    if not longest < aim < end:
        aim = middle(longest, end)
    return _rounded(aim, longest)


def predicted_length(needed: Mapping[int, int], allowed: int | None) -> int | None:
    """Return the longest length that needs at most the memory allowed.

    The need is fitted as a sum of the powers 0, 1, 1.5 and 2 of the length with coefficients of zero or more. None
    where the limit or the needs are unknown, or no length up to 2^31 needs more than is allowed.
    """
    from scipy.optimize import nnls  # here, because it costs 0.3 s

    if allowed is None or not needed:
        return None
    lengths, sizes = np.array(list(needed), dtype=float), np.array(list(needed.values()), dtype=float)
    scale = lengths.max()
    terms = np.stack([(lengths / scale) ** power for power in _POWERS], axis=1)
    weights, _ = nnls(terms / sizes[:, None], np.ones(len(sizes)))  # relative: each length has an equal say

    def fits(length: int) -> bool:
        need = sum(weight * (length / scale) ** power for weight, power in zip(weights, _POWERS, strict=True))
        return bool(need <= allowed)

    if fits(_LONGEST):
        return None
    return max(0, bisect_left(range(_LONGEST), x=True, key=lambda length: not fits(length)) - 1)


def _curves(rows: Iterable[Row]) -> dict[str, dict[int, Row]]:
    """Return the memory rows of each variant and setting by length, ascending."""
    curves: dict[str, dict[int, Row]] = {}
    for row in rows:
        if row.metric == "memory" and not row.is_harness:
            curves.setdefault(_family(row.case, row.origin.name), {})[row.case.length] = row
    return {family: dict(sorted(curve.items())) for family, curve in curves.items()}


def _family(case: Case, origin: str) -> str:
    """Return what cases that differ in their length alone have in common.

    The key of a case would not do: it tells a default from the same value given.
    """
    return f"{at_length(case, 1)} {origin}"


def at_length(case: Case, length: int) -> Case:
    """Return a case at another length."""
    sizes = {"seq_k": length} if case.passes == "decode" else {"seq_q": length, "seq_k": length}
    return replace(case, shape=replace(case.shape, **sizes))


def _context(curve: Mapping[int, Row], fit: Fit) -> Context:
    longest = max((length for length, row in curve.items() if row.value is not None), default=None)
    ended = [length for length, row in curve.items() if row.value is None and row.detail != PENDING]
    failed = min((length for length in ended if longest is None or length > longest), default=None)
    first = {length: need for length, need in _needs(curve).items() if length in fit.lengths}
    return Context(
        row=curve[longest] if longest is not None else next(iter(curve.values())),
        longest=longest,
        failed=failed,
        stopped=_stopped(curve, longest, failed, fit),
        detail=curve[failed].detail if failed is not None else "",
        predicted=predicted_length(first, fit.allowed_bytes),
    )


def _stopped(curve: Mapping[int, Row], longest: int | None, failed: int | None, fit: Fit) -> Stop:
    """Return what ended a search; empty while it goes on."""
    if longest is not None and longest >= fit.most:
        return "the end of --seq"
    if failed is not None:
        why = _STOPS.get(curve[failed].status, "an error")
        near = longest is None or failed - longest <= max(1, longest * (_CLOSE - 1))
        if near or why == "the time budget":
            return why
    return "enough trials" if len(curve) >= _MOST_ROWS else ""


def _needs(curve: Mapping[int, Row]) -> dict[int, int]:
    """Return the peak memory of each length that ran: while it was built, or while it was called."""
    return {length: _need(row) for length, row in curve.items() if row.value is not None}


def _need(row: Row) -> int:
    building, held = (row.facts.get(fact) or 0 for fact in (BUILDING, HELD))
    assert isinstance(building, int)
    assert isinstance(held, int)
    return max(building, held + int(row.value or 0), 1)


def _rounded(aim: int, above: int) -> int:
    """Round a length down to a multiple of 64, or of 16, that is still above another length."""
    return next(length for step in (64, 16, 1) if (length := aim // step * step) > above)


def _as_row(context: Context) -> Row:
    longest, failed = context.longest, context.failed
    facts = {"stopped": context.stopped, "predicted": context.predicted, "memory_bytes": context.row.value}
    return replace(
        context.row,
        metric=METRIC,
        unit="tokens",
        value=longest,
        low=longest,
        high=failed,
        detail=context.detail,
        facts=facts,
        primary=False,
        higher_is_better=True,
        noise="",
        medians={},
        flags=(),
    )
