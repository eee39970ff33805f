"""The longest context that fits: what to try next, and what was found; pure, from the rows of memory jobs.

A length is chosen by what lengths so far have needed: a sum of powers of it, held against what is allowed.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from attnbench.analysis.crossover import middle
from attnbench.analysis.floor import is_harness
from attnbench.analysis.rows import Row
from attnbench.contracts.case import Case
from attnbench.contracts.errors import UsageError
from attnbench.contracts.ranges import parse_range
from attnbench.contracts.record import BUILDING, HELD, PENDING, Job, Status
from attnbench.contracts.suite import Sweep, overlay
from attnbench.store import Fit, Plan

Stop = Literal["memory", "time", "support", "the end of --seq", "the time budget", "an error", "enough trials", ""]
METRIC = "longest_context"
_UNTIL = "512..1024k"  # where nobody says
_FIRST = 3  # lengths that a prediction starts from
_MOST_ROWS = 16  # of one variant: a search that has not ended then is not worth its time
_STEP = 4  # a length is tried that is at most so many times the longest that ran: a wrong prediction costs little
_CLOSE = 1.05  # a length that failed is this near to one that ran: near enough
_SURE = 0.98  # of a predicted length: what is a little too long fails, and tells less
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
    """What is known of a variant's longest context: `row` is that of the longest length that ran, else of the first.

    `failed` is the shortest length above it that did not run, `stopped` what ended it there, empty while the search
    goes on. `predicted` is what the first lengths alone promised; null where they promise no end below 2^31.
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


def further_lengths(found: Iterable[Row], plan: Plan) -> list[Job]:
    """Return the jobs that a search calls for next: one more length of each variant whose search is not over."""
    if plan.fit is None:
        return []
    templates = {_family(job.case, str(job.origin)): job for job in plan.jobs}
    jobs = []
    for family, course in _courses(found).items():
        length = next_length(course, plan.fit)
        if length is not None:
            template = templates[family]
            jobs.append(replace(template, case=at_length(template.case, length)))
    return jobs


def contexts(found: Iterable[Row], fit: Fit) -> list[Context]:
    """Say of each variant how long a context fits, as far as rows tell."""
    return [_context(course, fit) for course in _courses(found).values()]


def context_rows(found: Iterable[Row], fit: Fit | None) -> list[Row]:
    """Give a row for each variant's longest context: the length that ran, up to the one that did not."""
    return [] if fit is None else [_as_row(each) for each in contexts(found, fit)]


def next_length(course: Mapping[int, Row], fit: Fit) -> int | None:
    """Choose the length to try next: the one predicted, at most a step ahead; then between success and failure.

    None where the search is over: the end is reached, success and failure are close, or nothing ran.
    """
    context = _context(course, fit)
    if context.stopped or context.longest is None or any(row.detail == PENDING for row in course.values()):
        return None
    longest, end = context.longest, context.failed or fit.most + 1
    predicted = predicted_length(_needed(course), fit.allowed_bytes)
    aim = min(longest * _STEP, fit.most)
    if predicted is not None and longest * _CLOSE < predicted * _SURE < end / _CLOSE:
        aim = min(aim, int(predicted * _SURE))
    elif predicted is not None and predicted * _SURE <= longest * _CLOSE:
        aim = min(aim, int(longest * _CLOSE**2))
    if not longest < aim < end:
        aim = middle(longest, end)
    return _rounded(aim, longest)


def predicted_length(needed: Mapping[int, int], allowed: int | None) -> int | None:
    """Predict the longest length whose need is allowed: by a sum of powers 0, 1, 1.5 and 2 of it, none less than zero.

    None where nobody knows what is allowed, or no length up to 2^31 needs more.
    """
    from scipy.optimize import nnls  # here, because it costs 0.3 s

    if allowed is None or not needed:
        return None
    lengths, sizes = np.array(list(needed), dtype=float), np.array(list(needed.values()), dtype=float)
    scale = lengths.max()
    terms = np.stack([(lengths / scale) ** power for power in _POWERS], axis=1)
    weights, _ = nnls(terms / sizes[:, None], np.ones(len(sizes)))  # relative: each length has an equal say

    def need(length: int) -> float:
        return float(sum(weight * (length / scale) ** power for weight, power in zip(weights, _POWERS, strict=True)))

    if need(_LONGEST) <= allowed:
        return None
    fits, fails = 0, _LONGEST
    while fails - fits > 1:
        length = (fits + fails) // 2
        fits, fails = (length, fails) if need(length) <= allowed else (fits, length)
    return fits


def _courses(found: Iterable[Row]) -> dict[str, dict[int, Row]]:
    """Sort memory rows into those that differ in their length alone."""
    courses: dict[str, dict[int, Row]] = {}
    for row in found:
        if row.metric == "memory" and not is_harness(row):
            courses.setdefault(_family(row.case, row.origin.name), {})[row.case.length] = row
    return {family: dict(sorted(course.items())) for family, course in courses.items()}


def _family(case: Case, origin: str) -> str:
    """Name what has all but its length in common. Not by its key, which tells a default from the same value given."""
    return f"{at_length(case, 1)} {origin}"


def at_length(case: Case, length: int) -> Case:
    """Return a case at another length."""
    sizes = {"seq_k": length} if case.passes == "decode" else {"seq_q": length, "seq_k": length}
    return replace(case, shape=replace(case.shape, **sizes))


def _context(course: Mapping[int, Row], fit: Fit) -> Context:
    ran = [length for length, row in course.items() if row.value is not None]
    longest = max(ran, default=None)
    ended = [length for length, row in course.items() if row.value is None and row.detail != PENDING]
    failed = min((length for length in ended if longest is None or length > longest), default=None)
    first = {length: need for length, need in _needed(course).items() if length in fit.lengths}
    return Context(
        row=course[longest] if longest is not None else next(iter(course.values())),
        longest=longest,
        failed=failed,
        stopped=_stopped(course, longest, failed, fit),
        detail=course[failed].detail if failed is not None else "",
        predicted=predicted_length(first, fit.allowed_bytes),
    )


def _stopped(course: Mapping[int, Row], longest: int | None, failed: int | None, fit: Fit) -> Stop:
    """Say what ended a search; nothing while it goes on."""
    if longest is not None and longest >= fit.most:
        return "the end of --seq"
    if failed is not None:
        why = _STOPS.get(course[failed].status, "an error")
        near = longest is None or failed - longest <= max(1, longest * (_CLOSE - 1))
        if near or why == "the time budget":
            return why
    return "enough trials" if len(course) >= _MOST_ROWS else ""


def _needed(course: Mapping[int, Row]) -> dict[int, int]:
    """Give what each length that ran has needed at most: to build it, or to hold what it is given, and call."""
    return {length: _need(row) for length, row in course.items() if row.value is not None}


def _need(row: Row) -> int:
    building, held = (row.facts.get(fact) or 0 for fact in (BUILDING, HELD))
    assert isinstance(building, int)
    assert isinstance(held, int)
    return max(building, held + int(row.value or 0), 1)


def _rounded(aim: int, above: int) -> int:
    """Round a length down to a multiple of 64, or of 16, where that is still above another."""
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
