"""Where the time of a run went: pure, from its records."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import median

from msgspec import Struct

from attnbench.contracts.metrics import ProbeKind
from attnbench.contracts.record import Record
from attnbench.contracts.units import duration

_PAUSE_S = 30.0  # between jobs there are never so many seconds: the run was interrupted then, and resumed
_NAMES: dict[ProbeKind, str] = {"accuracy": "training"}

Stretch = tuple[float, float]


class Spent(Struct, frozen=True, kw_only=True):
    """Seconds by the wall clock: by kind of probe, those of timed calls, and what lay between the jobs.

    `around_s` is what a latency job takes besides its first, warm-up and timed calls: the median over jobs.
    """

    by_kind: dict[ProbeKind, float]
    calls_s: float
    around_s: float | None
    between_s: float

    @property
    def total_s(self) -> float:
        """All of it."""
        return sum(self.by_kind.values()) + self.between_s

    def sentence(self) -> str:
        """Say it in a line or two."""
        parts = [f"{_NAMES.get(kind, kind)} {duration(seconds)}" for kind, seconds in self.by_kind.items()]
        if self.around_s is not None:
            calls = f"(calls {duration(self.calls_s)}; a median of {duration(self.around_s)} around those of a job)"
            parts = [f"{part} {calls}" if part.startswith("latency") else part for part in parts]
        return (
            f"Time: {', '.join([*parts, f'between jobs {duration(self.between_s)}'])}; {duration(self.total_s)} in all"
        )


def spent(records: Sequence[Record]) -> Spent:
    """Add up where the time went; jobs that ran side by side share their time."""
    done = [record for record in records if record.seconds > 0]
    kinds = dict.fromkeys(record.job.probe.kind for record in done)
    stretches = {
        kind: _merged((one.started_s, one.started_s + one.seconds) for one in done if one.job.probe.kind == kind)
        for kind in kinds
    }
    calls = [
        (record.seconds, calls_ns / 1e9)
        for record in done
        if isinstance(calls_ns := record.outcome.facts.get("calls_ns"), int) and record.job.probe.kind == "latency"
    ]
    whole = _merged(stretch for each in stretches.values() for stretch in each)
    gaps = (after[0] - before[1] for before, after in pairwise(whole))
    return Spent(
        by_kind={kind: sum(end - start for start, end in each) for kind, each in stretches.items()},
        calls_s=sum(inside for _, inside in calls),
        around_s=median(whole_job - inside for whole_job, inside in calls) if calls else None,
        between_s=sum(gap for gap in gaps if gap < _PAUSE_S),
    )


def _merged(stretches: Iterable[Stretch]) -> list[Stretch]:
    """Join stretches of time that overlap."""
    merged: list[Stretch] = []
    for start, end in sorted(stretches):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
