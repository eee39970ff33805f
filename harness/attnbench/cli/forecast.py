"""What a run is going to take, said before it starts, and how to make it shorter."""

from collections.abc import Iterator, Sequence

from msgspec import Struct

from attnbench.contracts.metrics import TRAINED, ProbeKind
from attnbench.contracts.record import Job
from attnbench.contracts.units import roughly
from attnbench.planning.duration import Durations
from attnbench.store import Plan

_MUCH = 1 / 3  # of a run's time: what takes as much is worth leaving out
_LONG_S = 120.0  # from here on a shorter run is worth a word


class Part(Struct, frozen=True, kw_only=True):
    """The jobs of one kind of probe: their number, and the seconds that they are expected to take."""

    kind: ProbeKind
    jobs: int
    seconds: float


class Forecast(Struct, frozen=True, kw_only=True):
    """The parts of a run, those that take longest first, and the whole, which a time budget may end sooner."""

    device: str
    threads: int
    parts: tuple[Part, ...]
    jobs: int
    seconds: float
    shorter: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """Yield the forecast as lines of text."""
        yield f"{self.sentence()}:"
        width = max(len(part.kind) for part in self.parts)
        for part in self.parts:
            yield f"  {part.kind:<{width}}  {_jobs(part.jobs):>9}, {roughly(part.seconds)}"
        yield self._advice()

    def sentence(self) -> str:
        """Return what all of it takes."""
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        return f"{_jobs(self.jobs)} on {self.device}, {threads}, {roughly(self.seconds)}"

    @property
    def advice(self) -> str:
        """How to make a long run shorter; empty for a short one."""
        return self._advice() if self.seconds >= _LONG_S else ""

    def _advice(self) -> str:
        *others, last = self.shorter
        return f"make it shorter with {', '.join(others)} or {last}"


def forecast(plan: Plan, jobs: Sequence[Job]) -> Forecast:
    """Return what jobs of a plan are going to take."""
    environment = plan.environment
    durations = Durations()
    parts = []
    for kind in dict.fromkeys(job.probe.kind for job in jobs):
        of_kind = [job for job in jobs if job.probe.kind == kind]
        seconds = durations.left_s(of_kind, (), threads=environment.threads)
        parts.append(Part(kind=kind, jobs=len(of_kind), seconds=seconds))
    parts.sort(key=lambda part: -part.seconds)
    total_s = sum(part.seconds for part in parts)
    return Forecast(
        device=environment.device_name,
        threads=environment.threads,
        parts=tuple(parts),
        jobs=len(jobs),
        seconds=total_s if plan.budget_s is None else min(total_s, plan.budget_s),
        shorter=tuple(_shorter(plan, parts, total_s)),
    )


def _shorter(plan: Plan, parts: Sequence[Part], total_s: float) -> Iterator[str]:
    """Yield flags that make a run shorter, the one that saves most first."""
    kept = [part.kind for part in parts if part.kind not in TRAINED]
    trained = sum(part.seconds for part in parts if part.kind in TRAINED)
    if kept and trained > _MUCH * total_s:
        yield f"--metrics {','.join(sorted(kept))} (less {roughly(trained).removeprefix('about ')})"
    latency = sum(part.seconds for part in parts if part.kind == "latency")
    if latency > _MUCH * total_s and any(job.protocol.profile != "quick" for job in plan.jobs):
        yield "--profile quick"
    if plan.budget_s is None:
        yield f"--time-budget {max(1, round(total_s / 120))}m"
    yield from ("fewer lengths", "fewer variants")


def _jobs(count: int) -> str:
    return f"{count} job{'s' * (count != 1)}"
