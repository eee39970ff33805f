"""What a child sends, checked by the parent before it counts: a plugin can write anything to its answer descriptor."""

from collections.abc import Iterator
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from attnbench.contracts.errors import UsageError
from attnbench.contracts.metrics import METRICS
from attnbench.contracts.record import Job, Measurement, Outcome
from attnbench.contracts.text import plain
from attnbench.execute.executor import NoAnswer
from attnbench.execute.log import shortened
from attnbench.execute.messages import Answer, Progress

T = TypeVar("T")

LONGEST_LINE = 4 << 20  # bytes; the samples of a rigorous job take a tenth of it
_LONGEST_TEXT = 4000  # characters of a sentence: a reason, a mistake, progress
_LARGEST = 2**63  # no machine has as many bytes
_COUNTED = ("ns", "bytes", "J")
_NOT_A_JOBS = ("timeout", "crash", "interrupted", "skipped")  # what the parent alone can know
_UNREADABLE = (ValueError, RecursionError)  # msgspec's errors are ValueErrors


def parse(line: bytes) -> Progress | Answer | None:
    """Return a message; None for a line that is none, as where something else writes to the descriptor."""
    try:
        message = msgspec.json.decode(line, type=Progress | Answer)
    except _UNREADABLE:
        return None
    return replace(message, text=_sentence(message.text)) if isinstance(message, Progress) else message


def value_of(answer: Answer, kind: type[T]) -> T:
    """Return the value of an answer. Raises UsageError for a mistake that the child found, and NoAnswer."""
    if answer.mistake:
        raise UsageError(_sentence(answer.mistake))
    try:
        return msgspec.json.decode(answer.value, type=kind)
    except _UNREADABLE as error:
        raise NoAnswer(f"answered with something other than {_named(kind)}: {_sentence(str(error))}") from error


def outcome_of(answer: Answer, job: Job, *, seconds: float) -> Outcome:
    """Return the outcome of a job that took `seconds`, its texts shortened.

    Raises UsageError, and NoAnswer for figures that this job cannot have.
    """
    outcome = value_of(answer, Outcome)
    if answer.job != job.key:
        raise NoAnswer("answered with the outcome of another job")
    if fault := next(_faults(outcome, job, seconds), ""):
        raise NoAnswer(f"answered with {fault}")
    return replace(outcome, detail=_sentence(outcome.detail), log=shortened(outcome.log))


def _faults(outcome: Outcome, job: Job, seconds: float) -> Iterator[str]:
    if outcome.status in _NOT_A_JOBS:
        yield f"the status {outcome.status}, which is not for a job to say"
    if outcome.status == "ok" and not any(measurement.values for measurement in outcome.measurements):
        yield "the status ok and no figure"
    numbers = [*outcome.facts.values(), *(value for one in outcome.measurements for value in one.values)]
    if any(isinstance(number, int) and abs(number) > _LARGEST for number in numbers):
        yield "a number too large for any count"
    for measurement in outcome.measurements:
        if _is_foreign(measurement, job):
            yield f"a figure of {plain(measurement.metric[:80])}, which this job does not measure"
        if measurement.unit in _COUNTED and job.probe.declared is None:
            most = seconds * 1e9 if measurement.unit == "ns" else _LARGEST
            wrong = [value for value in measurement.values if value is not None and not 0 <= value <= most]
            yield from (f"{measurement.metric} of {value:.3g} {measurement.unit}" for value in wrong)


def _is_foreign(measurement: Measurement, job: Job) -> bool:
    """Return whether another kind of job measures this metric, or this one in another unit.

    A name that is in no table, such as that of a learning curve, is nobody else's.
    """
    declared = job.probe.declared
    if declared is not None:
        return (measurement.metric, measurement.unit) != (declared.name, declared.unit)
    metric = METRICS.get(measurement.metric)
    if metric is None:
        return False
    return metric.probe != job.probe.kind or measurement.unit != ("ns" if metric.unit == "s" else metric.unit)


def _sentence(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]} ... ({len(text)} characters)"


def _named(kind: type[object]) -> str:
    return f"an {kind.__name__}" if kind.__name__[0] in "AEIOU" else f"a {kind.__name__}"
