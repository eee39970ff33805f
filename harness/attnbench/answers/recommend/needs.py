"""What an answer must hold, and whether a figure with its interval does: pure."""

from collections.abc import Iterator

from msgspec import Struct

from attnbench.analysis.scores import Score
from attnbench.answers.recommend.interpolation import Figure
from attnbench.contracts.metrics import ProbeKind
from attnbench.contracts.specs import Spec
from attnbench.contracts.units import amount


class Needs(Struct, frozen=True, kw_only=True):
    """What must hold, in base units; None is no bound. Memory is the peak above the inputs."""

    memory_bytes: int | None = None
    max_latency_s: float | None = None
    max_error: float | None = None
    min_accuracy: float | None = None
    task: Spec | None = None

    @property
    def quality(self) -> bool:
        """Whether anything is asked of what comes out, beside what it costs."""
        return self.max_error is not None or self.min_accuracy is not None

    @property
    def probes(self) -> tuple[ProbeKind, ...]:
        """What is looked at for them."""
        bounds: dict[ProbeKind, float | None] = {
            "latency": 0,  # by which variants are ranked, whatever is asked
            "memory": self.memory_bytes,
            "agreement": self.max_error,
            "accuracy": self.min_accuracy,
        }
        return tuple(probe for probe, bound in bounds.items() if bound is not None)


class Bound(Struct, frozen=True, kw_only=True):
    """A figure held to a bound."""

    probe: ProbeKind
    what: str
    found: Figure | Score | None
    bound: float | None
    unit: str
    at_least: bool = False


def failing(bound: Bound) -> Iterator[str]:
    """Say by how much a figure misses its bound, if it does."""
    found = bound.found
    if found is None or bound.bound is None or _holds(found.value, bound):
        return
    value, allowed = amount(found.value, bound.unit), amount(bound.bound, bound.unit)
    if bound.probe == "memory":
        yield f"needs {value}, {allowed} allowed"
    elif bound.at_least:
        yield f"{bound.what} {value}, at least {allowed} asked"
    else:
        yield f"{bound.what} {value}, {allowed} allowed"


def doubtful(bound: Bound) -> Iterator[str]:
    """Say where the figure meets a bound, and its interval's far end does not."""
    found = bound.found
    if found is None or bound.bound is None or not _holds(found.value, bound):
        return
    end = found.low if bound.at_least else found.high
    if end is not None and not _holds(end, bound):
        yield f"its {bound.what} may be {amount(end, bound.unit)}"


def _holds(value: float, bound: Bound) -> bool:
    assert bound.bound is not None
    return value >= bound.bound if bound.at_least else value <= bound.bound
