"""What earlier jobs have shown, so that no time is spent on what is known: pure, from the records so far."""

from collections.abc import Iterable

import msgspec

from attnbench.contracts.case import Shape, digest
from attnbench.contracts.record import Job, Record, Status

_SPENT: tuple[Status, ...] = (
    "oom_device",
    "oom_host",
    "timeout",
)  # out of memory or of time: longer needs more of both
_TELL_NOTHING: tuple[Status, ...] = ("interrupted", "skipped", "device_lost")


class Known:
    """What is known of the questions of a run; each record that is added may close some.

    `prune` closes with a case that ran out of memory or time also those like it with longer sequences.
    """

    def __init__(self, records: Iterable[Record], *, prune: bool) -> None:
        self.prune = prune
        self._closed: dict[str, str] = {}
        self._too_long: dict[str, list[tuple[Shape, str]]] = {}
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Take in what came of a job."""
        job, outcome = record.job, record.outcome
        ended = f"ended as {outcome.status}: {outcome.detail}"
        if outcome.status == "ok":
            if any("once" in measurement.flags for measurement in outcome.measurements):
                self._closed[job.question] = "measured once: even its second call takes longer than the protocol's cap"
            else:
                self._closed.pop(job.question, None)
        elif outcome.status not in _TELL_NOTHING:
            self._closed.setdefault(job.question, f"round {job.round} {ended}")
        if outcome.status in _SPENT:
            self._too_long.setdefault(_family(job), []).append((job.case.shape, ended))

    def reason_to_skip(self, job: Job) -> str | None:
        """Say why a job need not be done, if so. A twin shares its baseline's fate: alone it would say nothing."""
        first = msgspec.structs.replace(job, probe=msgspec.structs.replace(job.probe, twin=False))
        closed = self._closed.get(job.question) or self._closed.get(first.question)
        return closed or (self._pruned(job) if self.prune else None)

    def _pruned(self, job: Job) -> str | None:
        for shape, ended in self._too_long.get(_family(job), ()):
            if _exceeds(job.case.shape, shape):
                length = max(shape.seq_q, shape.seq_k)
                return f"longer than {length}, where it {ended} (--no-prune measures it)"
        return None


def _family(job: Job) -> str:
    """Name what jobs have in common that differ in their lengths alone."""
    sizes = job.case.shape
    family = msgspec.structs.replace(job.case, shape=msgspec.structs.replace(sizes, seq_q=1, seq_k=1, batch=1))
    return digest(family, job.probe.kind, job.origin)


def _exceeds(one: Shape, other: Shape) -> bool:
    """Tell whether one is longer than the other and in nothing smaller; fewer sequences may make up for longer ones."""
    return (
        one.seq_q >= other.seq_q
        and one.seq_k >= other.seq_k
        and one.batch * one.seq_q >= other.batch * other.seq_q
        and (one.seq_q, one.seq_k) != (other.seq_q, other.seq_k)
    )
