"""The training loop, the same for every variant: what the table of accuracies compares is nothing but the mechanism."""

# N answers, C outputs
import copy
import math
from collections.abc import Callable, Iterable

import torch
from msgspec import Struct
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from attnbench.task import Form, Split, Training
from attnbench.train.data import Examples, batches
from attnbench.train.model import Model

Tell = Callable[[str], None]


class Score(Struct, frozen=True, kw_only=True):
    """How a model does on some examples: the mean loss, the share of right answers, and how many there were."""

    loss: float
    accuracy: float
    answers: int


class Validation(Struct, frozen=True, kw_only=True):
    """A point of the curve."""

    step: int
    score: Score


class Trained(Struct, frozen=True, kw_only=True):
    """A training that is over; the model holds the weights of its best validation.

    `diverged` says that the loss was no number any more: a result of its own, and the end of the training.
    """

    curve: tuple[Validation, ...]
    steps: int
    diverged: bool

    @property
    def best(self) -> Validation:
        """The validation whose weights were kept: the most answers right, of equals the lowest loss."""
        return max(self.curve, key=lambda point: (point.score.accuracy, -point.score.loss))


def train(model: Model, splits: dict[Split, Examples], training: Training, *, seed: int, tell: Tell) -> Trained:
    """Train a model, validating on the way; stop early where the training says so; keep the best weights."""
    optimizer = make_optimizer(model.parameters(), training)
    curve: list[Validation] = []
    kept = copy.deepcopy(model.state_dict())
    stream = batches(splits["train"], training.batch, seed=seed)
    for step in range(1, training.steps + 1):
        loss = update(model, next(stream), training, optimizer=optimizer, step=step)
        due = math.isfinite(loss) and (step % training.validate_every == 0 or step == training.steps)
        score = evaluate(model, splits["validation"], training.part) if due else None
        diverged = not math.isfinite(score.loss if score else loss)
        if diverged:
            break
        if score is None:
            continue
        curve.append(Validation(step=step, score=score))
        tell(f"step {step}/{training.steps}, accuracy {score.accuracy:.2f}")
        history = Trained(curve=tuple(curve), steps=step, diverged=False)
        if history.best is curve[-1]:
            kept = copy.deepcopy(model.state_dict())
        if gave_up(history, training):
            break
    model.load_state_dict(kept)
    return Trained(curve=tuple(curve), steps=step, diverged=diverged)


def update(model: Model, batch: Examples, training: Training, *, optimizer: torch.optim.Optimizer, step: int) -> float:
    """Take one step on a batch, in parts whose gradients add up to the whole batch's; give its mean loss."""
    model.train()
    for group in optimizer.param_groups:
        group["lr"] = rate(training, step)
    optimizer.zero_grad()
    asked = max(1, model.form.count(batch.targets))
    total = 0.0
    for part in batch.parts(training.part):
        loss = loss_of(model.form, *model.answers(model(part.inputs, part.context), part.targets)) / asked
        loss.backward()
        total += loss.item()
    if training.clip:
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip)
    optimizer.step()
    return total


def rate(training: Training, step: int) -> float:
    """Give the learning rate of a step, the first being 1: a linear rise from zero, then a decay back to it, if any.

    Zero would be one step before the first and one after the last, so that every step counts.
    """
    rising = max(1, round(training.warmup * training.steps))
    if step <= rising:
        return training.learning_rate * step / rising
    share = (step - rising) / (training.steps - rising + 1)
    decay = {"cosine": (1 + math.cos(math.pi * share)) / 2, "linear": 1 - share, "none": 1.0}
    return training.learning_rate * decay[training.decay]


@torch.no_grad()
def evaluate(model: Model, examples: Examples, size: int) -> Score:
    """Score a model on examples, `size` at a time, without dropout."""
    model.eval()
    loss, right, count = 0.0, 0, 0
    for part in examples.parts(size):
        # The last part is filled up: a variant is called at the shape that it was built for.
        full = part.at(torch.arange(size, device=part.inputs.device) % len(part))
        answers, targets = model.answers(model(full.inputs, full.context)[: len(part)], part.targets)
        loss += float(loss_of(model.form, answers, targets))
        right += int(right_answers(model.form, answers, targets).sum())
        count += len(targets)
    return Score(loss=loss / count, accuracy=right / count, answers=count)


def loss_of(form: Form, answers: Tensor, targets: Tensor) -> Tensor:
    """Sum the cross-entropy of classes and tokens, or the squared error of numbers; of no answers it is zero."""
    if form.answer == "number":
        return mse_loss(answers, targets, reduction="sum")
    return cross_entropy(answers, targets, reduction="sum")


def right_answers(form: Form, answers: Tensor, targets: Tensor) -> Tensor:
    """Mark the answers that are right: the likeliest class is the target, or the number is within the tolerance."""
    if form.answer == "number":
        return (answers - targets).abs() <= form.tolerance
    return answers.argmax(dim=-1) == targets


def gave_up(history: Trained, training: Training) -> bool:
    """Tell whether training stops early: nothing is left to learn, or too many validations brought nothing better."""
    if history.best.score.accuracy >= training.enough:
        return True
    since = [point for point in history.curve if point.step > history.best.step]
    return bool(training.patience) and len(since) >= training.patience


def make_optimizer(parameters: Iterable[torch.nn.Parameter], training: Training) -> torch.optim.Optimizer:
    """Make Adam (Kingma and Ba 2015) or AdamW (Loshchilov and Hutter 2019)."""
    kind = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
    betas = (0.9, training.beta2)
    return kind(parameters, lr=training.learning_rate, betas=betas, weight_decay=training.weight_decay)
