"""The measurements of a training: scores on test and training examples, and its learning curves."""

import math
from collections.abc import Iterable, Iterator
from typing import Literal

from msgspec.structs import replace

from attnbench.contracts.metrics import accuracy_beyond
from attnbench.contracts.record import TRIAL_METRIC, Measurement
from attnbench.contracts.task import Form
from attnbench.train.loop import Score, Trained

_CURVE = ("curve",)
_MOST_NATS = 700.0  # the largest loss whose exponential is finite, rounded down


def of_test(form: Form, tested: Score, learned: Score, trained: Trained, *, parameters: int) -> Iterator[Measurement]:
    """Yield all measurements of a tested training, the primary metric first.

    `tested` is the score on test examples, `learned` that on as many training examples.
    """
    yield _measurement("accuracy", tested.accuracy, higher=True)
    yield _measurement("test_loss", tested.loss)
    yield from _losses(form, tested.loss)
    yield _measurement("train_accuracy", learned.accuracy, higher=True)
    yield _measurement("train_loss", learned.loss)
    yield _measurement("generalisation_gap", learned.accuracy - tested.accuracy)
    yield _measurement("steps_to_best", float(trained.best.step) if trained.curve else 0.0)
    yield _measurement("parameters", parameters)
    yield from _curves(trained)


def of_swapped(name: Literal["swap", "tuned"], score: Score, own: Score) -> tuple[Measurement, ...]:
    """Return the measurements of a swapped model: its score, and against the exact model's own."""
    return (
        _measurement(f"{name}_accuracy", score.accuracy, higher=True),
        _measurement(f"{name}_loss", score.loss),
        _measurement(f"{name}_excess", score.loss - own.loss),
    )


def of_longer(factor: int, tested: Score) -> Measurement:
    """Return the measurement of a score at a multiple of the training length."""
    return _measurement(accuracy_beyond(factor), tested.accuracy, higher=True)


def of_trial(trained: Trained) -> Iterator[Measurement]:
    """Yield the measurements by which a learning rate is judged: the best validation, and nothing of the test."""
    best = trained.best.score if trained.curve else None
    yield _measurement(TRIAL_METRIC, best.accuracy if best else math.nan, higher=True)
    yield _measurement("search_loss", best.loss if best else math.nan)
    yield from _curves(trained)


def flagged(measurements: Iterable[Measurement], *flags: str) -> tuple[Measurement, ...]:
    """Return measurements with flags added."""
    return tuple(replace(one, flags=(*one.flags, *flags)) for one in measurements)


def _losses(form: Form, loss: float) -> Iterator[Measurement]:
    """Yield a loss in the usual terms of its kind of answer."""
    if form.answer == "number":
        yield _measurement("mse", loss)
        yield _measurement("rmse", math.sqrt(loss))
    if form.answer == "tokens":
        yield _measurement("perplexity", math.exp(loss) if loss < _MOST_NATS else math.inf)
    if form.bits_per:
        yield _measurement(f"bits_per_{form.bits_per}", loss / math.log(2))


def _curves(trained: Trained) -> Iterator[Measurement]:
    """Yield the learning curves: the steps of validations, their scores, and the training loss before each."""
    points = trained.curve
    yield _measurement("step_curve", *(float(point.step) for point in points), flags=_CURVE)
    yield _measurement("validation_curve", *(point.score.accuracy for point in points), higher=True, flags=_CURVE)
    yield _measurement("validation_loss_curve", *(point.score.loss for point in points), flags=_CURVE)
    yield _measurement("train_loss_curve", *(point.learning_loss for point in points), flags=_CURVE)


def _measurement(metric: str, *values: float, higher: bool = False, flags: tuple[str, ...] = ()) -> Measurement:
    finite = all(math.isfinite(value) for value in values)
    return Measurement(
        metric=metric,
        unit="1",
        values=tuple(value if math.isfinite(value) else None for value in values),
        higher_is_better=higher,
        flags=flags if finite else (*flags, "non_finite"),
    )
