"""Jobs to skip because of what earlier ones have shown: pure, from the records so far."""

from collections.abc import Iterable

import msgspec

from attnbench.contracts.case import Shape, digest
from attnbench.contracts.record import Job, Record, Status

# Out of memory or of time: longer sequences need more of both.
_EXHAUSTED: tuple[Status, ...] = ("oom_device", "oom_host", "timeout")
_INCONCLUSIVE: tuple[Status, ...] = ("interrupted", "skipped", "device_lost")


class Pruner:
    """Decides which jobs of a run need not be done; each record that is added may settle some.

    With `prune`, a case that ran out of memory or time settles all cases like it with longer sequences.
    """

    def __init__(self, records: Iterable[Record], *, prune: bool) -> None:
        self.prune = prune
        self._closed: dict[str, str] = {}
        self._too_long: dict[str, list[tuple[Shape, str]]] = {}
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Account for the record of a job."""
        job, outcome = record.job, record.outcome
        ended = f"ended as {outcome.status}: {outcome.detail}"
        if outcome.status == "ok":
            if any("once" in measurement.flags for measurement in outcome.measurements):
                self._closed[job.question] = "measured once: even its second call takes longer than the protocol's cap"
            else:
                self._closed.pop(job.question, None)
        elif outcome.status not in _INCONCLUSIVE:
            self._closed.setdefault(job.question, f"round {job.round} {ended}")
        if outcome.status in _EXHAUSTED:
            self._too_long.setdefault(_family(job), []).append((job.case.shape, ended))

    def reason_to_skip(self, job: Job) -> str | None:
        """Return why a job need not be done, or None. A twin is skipped with its baseline: alone it shows nothing."""
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
    """Return a key shared by jobs that differ in their lengths alone."""
    sizes = job.case.shape
    family = msgspec.structs.replace(job.case, shape=msgspec.structs.replace(sizes, seq_q=1, seq_k=1, batch=1))
    return digest(family, job.probe.kind, job.origin)


def _exceeds(one: Shape, other: Shape) -> bool:
    """Return whether one is longer than the other and in nothing smaller; a smaller batch can make up for length."""
    return (
        one.seq_q >= other.seq_q
        and one.seq_k >= other.seq_k
        and one.batch * one.seq_q >= other.batch * other.seq_q
        and (one.seq_q, one.seq_k) != (other.seq_q, other.seq_k)
    )
