"""The contract of a task on whose longer sequences a trained model is tested."""

from typing import Protocol, cast

from msgspec.structs import replace

from attnbench.contracts.errors import UsageError
from attnbench.contracts.task import Task, Training


class Lengthens(Protocol):
    """Optional method of a task on whose longer sequences a trained model may be tested."""

    def longer(self, factor: int, /) -> Task:
        """Return the task with sequences about `factor` times as long, all else the same.

        Answers at positions up to the training length are not scored, so a longer sequence must ask for some beyond it.
        """
        ...


def check_beyond(task: Task, training: Training) -> None:
    """Raise UsageError where a trained model cannot be tested beyond the training length, naming the option to change.

    Raises TypeError where the task's longer form is not that of the same model.
    """
    if not training.factors:
        return
    if not callable(getattr(task, "longer", None)):
        raise UsageError(f"beyond={training.beyond}: this task has no longer form; leave beyond=1")
    if training.positions == "learned":
        raise UsageError(
            f"beyond={training.beyond}: positions=learned has no vectors beyond the training length; "
            "use positions=rotary, sinusoidal or none"
        )
    for factor in training.factors:
        longer_of(task, factor)


def longer_of(task: Task, factor: int) -> Task:
    """Return a task with sequences `factor` times as long. Raises TypeError where its form is not of the same model."""
    longer = cast("Lengthens", task).longer(factor)
    form = replace(longer.form, length=task.form.length)
    if form != task.form or longer.form.length <= task.form.length:
        raise TypeError(f"{type(task).__qualname__}.longer({factor}) must give the same form with a greater length")
    return longer
