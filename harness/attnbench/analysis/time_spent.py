"""Where the time of a run went, from its records."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import median

from msgspec import Struct

from attnbench.contracts.metrics import ProbeKind
from attnbench.contracts.record import Record
from attnbench.contracts.units import duration

_PAUSE_S = 30.0  # a longer gap between jobs means that the run was interrupted and resumed
_NAMES: dict[ProbeKind, str] = {"accuracy": "training"}

_Span = tuple[float, float]


class TimeSpent(Struct, frozen=True, kw_only=True):
    """Wall-clock seconds by kind of probe, of the timed calls, and between jobs.

    `around_s` is what a latency job takes besides its first, warm-up and timed calls: the median over jobs.
    """

    by_kind: dict[ProbeKind, float]
    calls_s: float
    around_s: float | None
    between_s: float

    @property
    def total_s(self) -> float:
        """The sum."""
        return sum(self.by_kind.values()) + self.between_s

    def sentence(self) -> str:
        """Return the times as a sentence."""
        parts = [f"{_NAMES.get(kind, kind)} {duration(seconds)}" for kind, seconds in self.by_kind.items()]
        if self.around_s is not None:
            calls = f"(calls {duration(self.calls_s)}; a median of {duration(self.around_s)} around those of a job)"
            parts = [f"{part} {calls}" if part.startswith("latency") else part for part in parts]
        return (
            f"Time: {', '.join([*parts, f'between jobs {duration(self.between_s)}'])}; {duration(self.total_s)} in all"
        )


def time_spent(records: Sequence[Record]) -> TimeSpent:
    """Add up the time of records; jobs that ran side by side share theirs."""
    done = [record for record in records if record.seconds > 0]
    kinds = dict.fromkeys(record.job.probe.kind for record in done)
    spans = {kind: _union(_span(record) for record in done if record.job.probe.kind == kind) for kind in kinds}
    calls = [
        (record.seconds, calls_ns / 1e9)
        for record in done
        if isinstance(calls_ns := record.outcome.facts.get("calls_ns"), int) and record.job.probe.kind == "latency"
    ]
    gaps = (after[0] - before[1] for before, after in pairwise(_union(map(_span, done))))
    return TimeSpent(
        by_kind={kind: sum(end - start for start, end in union) for kind, union in spans.items()},
        calls_s=sum(in_calls for _, in_calls in calls),
        around_s=median(whole_job - in_calls for whole_job, in_calls in calls) if calls else None,
        between_s=sum(gap for gap in gaps if gap < _PAUSE_S),
    )


def _span(record: Record) -> _Span:
    return record.started_s, record.started_s + record.seconds


def _union(spans: Iterable[_Span]) -> list[_Span]:
    """Join spans that overlap."""
    union: list[_Span] = []
    for start, end in sorted(spans):
        if union and start <= union[-1][1]:
            union[-1] = (union[-1][0], max(end, union[-1][1]))
        else:
            union.append((start, end))
    return union
