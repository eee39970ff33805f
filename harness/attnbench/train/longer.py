"""The score of a trained model on sequences longer than those that it was trained on."""

# N examples, T positions
from collections.abc import Callable

from attnbench.contracts.case import Option
from attnbench.contracts.longer import longer_of
from attnbench.contracts.metrics import accuracy_beyond
from attnbench.contracts.record import Measurement
from attnbench.contracts.task import IGNORE, Task, Training
from attnbench.contracts.variant import Unsupported
from attnbench.train.data import Examples, draw, generator_of
from attnbench.train.loop import evaluate
from attnbench.train.measurements import of_longer
from attnbench.train.model import Model

Build = Callable[[Task, int], Model]  # of a task, and the number of sequences that are computed at once


def measure_longer(
    trained: Model, task: Task, training: Training, *, seed: int, build: Build
) -> tuple[tuple[Measurement, ...], dict[str, Option]]:
    """Return the accuracy of the trained weights at each multiple of the training length, and why any is missing.

    The mechanism is built again for the longer shape, with the options that it was trained with. Only answers beyond
    the training length count: those before it were learned as they are.
    """
    measurements, missing = [], dict[str, Option]()
    device = next(trained.parameters()).device
    for factor in training.factors:
        longer, part = longer_of(task, factor), max(1, training.part // factor)  # as many positions as in training
        try:
            model = _with_weights(build(longer, part), trained)
        except Unsupported as reason:
            missing[accuracy_beyond(factor)] = str(reason)
            continue
        generator = generator_of(seed, f"test at {factor} times the length")
        drawn = draw(longer, "test", training.test_examples, generator)
        examples = _beyond(drawn, task, factor=factor).map(lambda tensor: tensor.to(device))
        measurements.append(of_longer(factor, evaluate(model, examples, part)))
    return tuple(measurements), missing


def _with_weights(model: Model, trained: Model) -> Model:
    """Return a model with the weights of another. Raises Unsupported where they are made for the other's length."""
    own, given = model.state_dict(), trained.state_dict()
    bound = [name for name in given if name not in own or own[name].shape != given[name].shape]
    if bound or own.keys() != given.keys():
        parts = ", ".join(sorted({name.rpartition(".")[2] for name in bound or own.keys() - given.keys()}))
        raise Unsupported(f"its weights ({parts}) are made for the length that it was trained at")
    model.load_state_dict(given)
    return model


def _beyond(examples: Examples, task: Task, *, factor: int) -> Examples:
    """Return examples that are only asked beyond the training length. Raises ValueError where nothing is."""
    if task.form.answer != "tokens":
        return examples
    targets_NT = examples.targets.clone()
    targets_NT[:, : task.form.length] = IGNORE
    if not task.form.count(targets_NT):
        raise ValueError(
            f"{type(task).__qualname__}.longer({factor}) asks for nothing beyond position {task.form.length}"
        )
    return Examples(examples.inputs, targets_NT, examples.context)
