"""What is told of a training: scores on what it never saw, what it had learned, and its course."""

import math
from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from attnbench.contracts.record import TRIAL_METRIC, Measurement
from attnbench.contracts.task import Form
from attnbench.train.loop import Score, Trained

_CURVE = ("curve",)
_MOST_NATS = 700.0  # e to the power of more is no number


def measurements(
    form: Form, tested: Score, learned: Score, trained: Trained, *, parameters: int
) -> Iterator[Measurement]:
    """Give all figures of a training that was tested, the score by which it is known first."""
    yield _figure("accuracy", tested.accuracy, higher=True)
    yield _figure("test_loss", tested.loss)
    yield from _in_its_own_terms(form, tested.loss)
    yield _figure("train_accuracy", learned.accuracy, higher=True)
    yield _figure("train_loss", learned.loss)
    yield _figure("generalisation_gap", learned.accuracy - tested.accuracy)
    yield _figure("steps_to_best", float(trained.best.step) if trained.curve else 0.0)
    yield _figure("parameters", parameters)
    yield from _curves(trained)


def trial(trained: Trained) -> Iterator[Measurement]:
    """Give what a learning rate is judged by: the best validation, without a look at what is tested in the end."""
    best = trained.best.score if trained.curve else None
    yield _figure(TRIAL_METRIC, best.accuracy if best else math.nan, higher=True)
    yield _figure("search_loss", best.loss if best else math.nan)
    yield from _curves(trained)


def flagged(measurements: Iterable[Measurement], *flags: str) -> tuple[Measurement, ...]:
    """Give measurements with further flags."""
    return tuple(replace(each, flags=(*each.flags, *flags)) for each in measurements)


def _in_its_own_terms(form: Form, loss: float) -> Iterator[Measurement]:
    """Give a loss as it is told of its kind of answer."""
    if form.answer == "number":
        yield _figure("mse", loss)
        yield _figure("rmse", math.sqrt(loss))
    if form.answer == "tokens":
        yield _figure("perplexity", math.exp(loss) if loss < _MOST_NATS else math.inf)
    if form.bits_per:
        yield _figure(f"bits_per_{form.bits_per}", loss / math.log(2))


def _curves(trained: Trained) -> Iterator[Measurement]:
    """Give the course of a training: the steps at which it was validated, how it did, and the loss on the way there."""
    points = trained.curve
    yield _figure("step_curve", *(float(point.step) for point in points), flags=_CURVE)
    yield _figure("validation_curve", *(point.score.accuracy for point in points), higher=True, flags=_CURVE)
    yield _figure("validation_loss_curve", *(point.score.loss for point in points), flags=_CURVE)
    yield _figure("train_loss_curve", *(point.learning_loss for point in points), flags=_CURVE)


def _figure(metric: str, *values: float, higher: bool = False, flags: tuple[str, ...] = ()) -> Measurement:
    finite = all(math.isfinite(value) for value in values)
    return Measurement(
        metric=metric,
        unit="1",
        values=tuple(value if math.isfinite(value) else None for value in values),
        higher_is_better=higher,
        flags=flags if finite else (*flags, "non_finite"),
    )
