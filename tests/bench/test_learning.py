"""Whether exact attention learns a task at `tiny`, and nothing where there is nothing to learn.

It is held against the best constant answer. `make learning` trains every registered task twice: as it is, and with its
answers permuted; a minute or less each.
"""

from statistics import mean, stdev

import pytest
import torch
from scipy.stats import binomtest, ttest_rel

from attnbench.contracts.task import Form, Split, Training
from attnbench.train.data import Examples
from attnbench.train.loop import evaluate
from attnbench.train.model import Model
from helpers.learning import TASKS, Permuted, built, trained
from helpers.threads import one_thread

__all__ = ["one_thread"]

pytestmark = pytest.mark.timeout(900)


class Exam:
    """What a model answers on the test split, beside one answer for all.

    Of numbers that is the mean of the training split; of classes the commonest, in the training split or in the test
    itself: where classes are equally common those may differ. What knows nothing may then answer with any of `equals`,
    those which the training split does not tell from the commonest, and scores as often as the test asks for them.
    """

    def __init__(self, model: Model, splits: dict[Split, Examples], training: Training) -> None:
        self.form, self.size = model.form, training.part
        self.score = evaluate(model, splits["test"], self.size)
        learned, tested = (answers(self.form, splits[split]) for split in ("train", "test"))
        if self.form.answer == "number":
            constant = learned.mean()
            self.parts = [evaluate(model, part, self.size).loss for part in splits["test"].parts(self.size)]
            self.constants = [float(((each - constant) ** 2).mean()) for each in tested.split(self.size)]
        else:
            commonest = learned.mode().values, tested.mode().values
            self.shares = [float((tested == each).float().mean()) for each in commonest]
            learned_C, tested_C = (each.bincount(minlength=self.form.outputs) for each in (learned, tested))
            most = int(learned_C.max())
            equals_C = learned_C >= most - 3.3 * (2 * most) ** 0.5  # a difference of two counts
            self.equals = (tested_C[equals_C] / len(tested)).tolist()

    @property
    def chance_of_no_better(self) -> float:
        """How likely so many right answers, or errors so much smaller, are for what knows no more than the constant."""
        if self.form.answer == "number":
            return float(ttest_rel(self.parts, self.constants, alternative="less").pvalue)
        return float(binomtest(self.right, self.score.answers, max(self.shares), alternative="greater").pvalue)

    @property
    def interval(self) -> tuple[float, float]:
        """Where the score is 999 times of 1000, by the test's size alone."""
        if self.form.answer == "number":
            margin = 3.3 * stdev(self.constants) / len(self.constants) ** 0.5
            return self.score.loss - margin, self.score.loss + margin
        found = binomtest(self.right, self.score.answers).proportion_ci(0.999)
        return float(found.low), float(found.high)

    @property
    def baselines(self) -> list[float]:
        return [mean(self.constants)] if self.form.answer == "number" else self.shares

    @property
    def knows_nothing(self) -> bool:
        """Whether the score may be that of answers which the training split does not tell apart."""
        low, high = self.interval
        constants = self.baselines if self.form.answer == "number" else [*self.shares, *self.equals]
        return low <= max(constants) and high >= min(constants)

    @property
    def right(self) -> int:
        return round(self.score.accuracy * self.score.answers)

    def __str__(self) -> str:
        figures = f"accuracy {self.score.accuracy:.4f}, loss {self.score.loss:.4f} of {self.score.answers} answers"
        kind = "squared error" if self.form.answer == "number" else "accuracy"
        constants = " or ".join(f"{each:.4f}" for each in self.baselines)
        return f"{figures}; a constant's {kind} {constants}; p = {self.chance_of_no_better:.2g}"


def answers(form: Form, examples: Examples) -> torch.Tensor:
    """List what is asked for, in order."""
    return examples.targets[examples.targets >= 0] if form.answer == "tokens" else examples.targets


@pytest.mark.parametrize("name", TASKS)
def test_attention_beats_the_best_constant_answer(name: str) -> None:
    task, training = built(name)
    exam = Exam(*trained("vanilla", task, training), training)
    print(f"{name}: {exam}")
    assert exam.score.answers >= 1000
    assert exam.chance_of_no_better < 0.01


@pytest.mark.parametrize("name", TASKS)
def test_on_permuted_answers_the_score_is_that_of_the_best_constant_answer(name: str) -> None:
    task, training = built(name)
    exam = Exam(*trained("vanilla", Permuted(task), training), training)
    print(f"{name}, permuted: {exam}")
    assert exam.knows_nothing
