"""Scores of models trained on a task, by variant, and the numbers of heads and layers with which the best was reached.

A score belongs to the task's own length and mask: it stands beside a workload and is no part of it.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

from msgspec import Struct

from attnbench.analysis.groups import group_by
from attnbench.analysis.match import has_options
from attnbench.analysis.rows import Row
from attnbench.analysis.variant import Variant
from attnbench.contracts.specs import Spec, parse_specs

METRIC = "accuracy"
_FORM = ("heads", "layers")  # of the trained model: they adapt it to a task without changing the task


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


class Adaptation(Variant, frozen=True, kw_only=True):
    """Scores of one variant on one task with several numbers of heads or layers, the best first.

    `best` is the recommended one: of those whose intervals overlap with the highest score's (`tied`, itself included),
    the one with the fewest layers, and of these the highest. Without intervals it is the highest score, and not `sure`.
    """

    best: Score
    tied: tuple[Score, ...]
    scores: tuple[Score, ...]
    sure: bool


def task_of(row: Row) -> str:
    """Return a row's task without the model's heads and layers: scores under one name answer one question."""
    (spec,) = parse_specs(row.task, flag="--task")
    return str(Spec(name=spec.name, options={key: text for key, text in spec.options.items() if key not in _FORM}))


def scored(rows: Iterable[Row], task: Spec | None) -> list[Row]:
    """Return the rows with a score on a task, which is given by its name and any of its options."""
    scores = [row for row in rows if row.metric == METRIC and row.value is not None]
    return scores if task is None else [row for row in scores if _is_on(row, task)]


def scores_of(rows: Iterable[Row]) -> list[Score]:
    """Return the score of each number of heads and layers, the highest first; of two rows the later counts."""
    latest: dict[object, Score] = {}
    for row in rows:
        score = _score(row)
        latest[score.heads, score.layers] = score
    return sorted(latest.values(), key=lambda score: -score.value)


def adaptations(rows: Iterable[Row]) -> list[Adaptation]:
    """Return the best number of heads and layers of each variant whose rows of one task have more than one."""
    groups = group_by(rows, lambda row: (task_of(row), row.identity)).values()
    return [_adaptation(group[0], scores) for group in groups if len(scores := scores_of(group)) > 1]


def _adaptation(row: Row, scores: Sequence[Score]) -> Adaptation:
    highest = scores[0]
    sure = all(score.low is not None for score in scores)
    tied = [score for score in scores if score is highest or (sure and overlap(score, highest))]
    return Adaptation(
        variant=row.case.variant,
        options=row.case.options,
        origin=row.origin.name,
        best=min(tied, key=lambda score: (score.layers or 0, -score.value)),
        tied=tuple(tied),
        scores=tuple(scores),
        sure=sure,
    )


class HasInterval(Protocol):
    """A value with an interval; its ends are null where there is none."""

    @property
    def low(self) -> float | None:
        """The lower end."""
        ...

    @property
    def high(self) -> float | None:
        """The upper end."""
        ...


def overlap(one: HasInterval, other: HasInterval) -> bool:
    """Return whether two intervals have a value in common; a missing interval overlaps with none."""
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return False
    return one.low <= other.high and other.low <= one.high


def _is_on(row: Row, task: Spec) -> bool:
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
