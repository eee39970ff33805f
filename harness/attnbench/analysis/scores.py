"""What models trained on a task have reached, variant by variant; and with which number of heads and layers the best.

Pure, from rows. A score is of the task's own length and mask: it stands beside a workload, and is no part of it.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

from msgspec import Struct

from attnbench.analysis.match import has_options
from attnbench.analysis.rows import Row
from attnbench.contracts.case import Identity, Option, canonical
from attnbench.contracts.specs import Spec, parse_specs

METRIC = "accuracy"
_FORM = ("heads", "layers")  # of the trained model: what adapts to a task, and leaves the task what it is


class Score(Struct, frozen=True, kw_only=True):
    """The accuracy of a trained model: the mean over seeds with its 95% interval, null for fewer than 3 seeds."""

    task: str
    seq: int
    causal: bool
    heads: int
    layers: int | None
    value: float
    low: float | None
    high: float | None
    seeds: int
    run: str


class Adaptation(Struct, frozen=True, kw_only=True):
    """Scores of one variant on one task with several numbers of heads or layers, the best first.

    `best` is what to take: of those whose intervals overlap with the highest score's (`tied`, itself included), the one
    with the fewest layers, and of these the highest. Without intervals it is the highest score, and not `sure`.
    """

    variant: str
    options: dict[str, Option]
    origin: str
    best: Score
    tied: tuple[Score, ...]
    scores: tuple[Score, ...]
    sure: bool

    @property
    def identity(self) -> Identity:
        """The variant's identity, as of its rows."""
        return self.variant, canonical(self.options), self.origin


def task_of(row: Row) -> str:
    """Name a row's task without the model's heads and layers: scores under one name answer one question."""
    (spec,) = parse_specs(row.task, flag="--task")
    return str(Spec(name=spec.name, options={key: text for key, text in spec.options.items() if key not in _FORM}))


def scored(rows: Iterable[Row], task: Spec | None) -> list[Row]:
    """Give the rows that hold a score on a task, asked for by its name and by options in which it may differ."""
    found = [row for row in rows if row.metric == METRIC and row.value is not None]
    return found if task is None else [row for row in found if _is_asked(row, task)]


def scores_of(rows: Iterable[Row]) -> list[Score]:
    """Give the score of each number of heads and layers, the later row where there are two."""
    latest: dict[tuple[int, Option], Score] = {}
    for row in rows:
        score = _score(row)
        latest[score.heads, score.layers] = score
    return sorted(latest.values(), key=lambda score: -score.value)


def adaptations(rows: Iterable[Row]) -> list[Adaptation]:
    """Say which number of heads and layers serves each variant best, where rows of one task have more than one."""
    by_variant: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        by_variant.setdefault((task_of(row), *row.identity), []).append(row)
    return [_adaptation(group[0], scores) for group in by_variant.values() if len(scores := scores_of(group)) > 1]


def _adaptation(row: Row, scores: Sequence[Score]) -> Adaptation:
    highest = scores[0]
    sure = all(score.low is not None for score in scores)
    tied = [score for score in scores if score is highest or (sure and overlap(score, highest))]
    best = min(tied, key=lambda score: (score.layers or 0, -score.value))
    return Adaptation(
        variant=row.case.variant,
        options=row.case.options,
        origin=row.origin.name,
        best=best,
        tied=tuple(tied),
        scores=tuple(scores),
        sure=sure,
    )


class Bounded(Protocol):
    """What has an interval, or none where its ends are null."""

    @property
    def low(self) -> float | None:
        """The lower end."""
        ...

    @property
    def high(self) -> float | None:
        """The upper end."""
        ...


def overlap(one: Bounded, other: Bounded) -> bool:
    """Tell whether two intervals have a value in common; one that is not known has none."""
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return False
    return one.low <= other.high and other.low <= one.high


def _is_asked(row: Row, task: Spec) -> bool:
    (spec,) = parse_specs(row.task, flag="--task")
    return spec.name == task.name and has_options({**row.probe.task_options, **spec.options}, task.options)


def _score(row: Row) -> Score:
    layers = row.probe.task_options.get("layers")
    assert row.value is not None
    return Score(
        task=row.task,
        seq=row.case.shape.seq_q,
        causal=row.case.mask.causal,
        heads=row.case.shape.heads,
        layers=layers if isinstance(layers, int) else None,
        value=row.value,
        low=row.low,
        high=row.high,
        seeds=row.samples,
        run=row.run,
    )
