"""The needs of a recommendation, and whether a value with its interval meets them."""

from collections.abc import Iterator

from msgspec import Struct

from attnbench.analysis.scores import Score
from attnbench.answers.recommend.interpolation import LengthEstimate
from attnbench.contracts.metrics import ProbeKind
from attnbench.contracts.specs import Spec
from attnbench.contracts.units import amount


class Needs(Struct, frozen=True, kw_only=True):
    """The bounds of an answer, in base units; None is no bound. Memory is the peak above the inputs."""

    memory_bytes: int | None = None
    max_latency_s: float | None = None
    max_error: float | None = None
    min_accuracy: float | None = None
    task: Spec | None = None

    @property
    def quality(self) -> bool:
        """Whether the quality of the output is bounded, and not its cost alone."""
        return self.max_error is not None or self.min_accuracy is not None

    @property
    def probes(self) -> tuple[ProbeKind, ...]:
        """The probes that tell whether the needs are met."""
        bounds: dict[ProbeKind, float | None] = {
            "latency": 0,  # by which variants are ranked in any case
            "memory": self.memory_bytes,
            "agreement": self.max_error,
            "accuracy": self.min_accuracy,
        }
        return tuple(probe for probe, bound in bounds.items() if bound is not None)


class Bound(Struct, frozen=True, kw_only=True):
    """A value and its bound; None where the value is not measured, or not bounded."""

    probe: ProbeKind
    what: str
    value: LengthEstimate | Score | None
    bound: float | None
    unit: str
    at_least: bool = False


def failing(bound: Bound) -> Iterator[str]:
    """Yield by how much a value misses its bound, if it does."""
    measured = bound.value
    if measured is None or bound.bound is None or _holds(measured.value, bound):
        return
    value, allowed = amount(measured.value, bound.unit), amount(bound.bound, bound.unit)
    if bound.probe == "memory":
        yield f"needs {value}, {allowed} allowed"
    elif bound.at_least:
        yield f"{bound.what} {value}, at least {allowed} asked"
    else:
        yield f"{bound.what} {value}, {allowed} allowed"


def doubtful(bound: Bound) -> Iterator[str]:
    """Yield the far end of the interval where the value meets its bound, and that end does not."""
    measured = bound.value
    if measured is None or bound.bound is None or not _holds(measured.value, bound):
        return
    end = measured.low if bound.at_least else measured.high
    if end is not None and not _holds(end, bound):
        yield f"its {bound.what} may be {amount(end, bound.unit)}"


def _holds(value: float, bound: Bound) -> bool:
    assert bound.bound is not None
    return value >= bound.bound if bound.at_least else value <= bound.bound
