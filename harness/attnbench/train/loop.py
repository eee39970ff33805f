"""The training loop, the same for every variant: what the table of accuracies compares is nothing but the mechanism."""

# N answers, C outputs
import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import torch
from msgspec import Struct
from msgspec.structs import replace
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from attnbench.contracts.task import Form, Split, Training
from attnbench.train.checkpoint import Checkpoint
from attnbench.train.data import Batches, Examples
from attnbench.train.model import Model

Tell = Callable[[str], None]


class Score(Struct, frozen=True, kw_only=True):
    """How a model does on some examples: the mean loss, the share of right answers, and how many there were."""

    loss: float
    accuracy: float
    answers: int

    def merit(self, *, by_loss: bool) -> tuple[float, float]:
        """Give what is higher for the better of two scores: the most answers right, or the lowest loss."""
        return (-self.loss, self.accuracy) if by_loss else (self.accuracy, -self.loss)


class Validation(Struct, frozen=True, kw_only=True):
    """A point of the curve; `learning_loss` is the mean loss of the steps since the point before."""

    step: int
    score: Score
    learning_loss: float = math.nan


class Trained(Struct, frozen=True, kw_only=True):
    """A training that is over; the model holds the weights of its best validation.

    `diverged` says that the loss was no number any more: a result of its own, and the end of the training.
    """

    curve: tuple[Validation, ...]
    steps: int
    diverged: bool
    by_loss: bool = False

    @property
    def best(self) -> Validation:
        """The validation whose weights were kept: of equals the first."""
        return max(self.curve, key=lambda point: point.score.merit(by_loss=self.by_loss))


class Trainer:
    """A training under way: all that its next step depends on. `state` gives it as values, `restore` takes it up."""

    def __init__(self, model: Model, splits: dict[Split, Examples], training: Training, *, seed: int) -> None:
        self.model, self.splits, self.training = model, splits, training
        self.optimizer = make_optimizer(model.parameters(), training)
        self.batches = Batches(splits["train"], training.batch, seed=seed)
        self.kept = copy.deepcopy(model.state_dict())
        self.history = Trained(curve=(), steps=0, diverged=False, by_loss=model.form.by_loss)
        self.losses: list[float] = []
        self.device = splits["train"].inputs.device
        self.over = False

    def advance(self) -> Validation | None:
        """Take a step, and give the validation after it where one was due; notice when the training is over."""
        step, training = self.history.steps + 1, self.training
        loss = update(self.model, next(self.batches), training, optimizer=self.optimizer, step=step)
        self.losses.append(loss)
        due = math.isfinite(loss) and (step % training.validate_every == 0 or step == training.steps)
        score = evaluate(self.model, self.splits["validation"], training.part) if due else None
        diverged = not math.isfinite(score.loss if score else loss)
        self.history = replace(self.history, steps=step, diverged=diverged)
        self.over = diverged
        return None if score is None or diverged else self._take_in(score)

    def finish(self) -> Trained:
        """Put the best weights into the model, and say how it went."""
        self.model.load_state_dict(self.kept)
        return self.history

    def state(self) -> dict[str, Any]:
        """Give what there is, as tensors and plain values; of a training that is over only what came of it."""
        history = self.history
        told = {
            "steps": history.steps,
            "diverged": history.diverged,
            "curve": msgspec.to_builtins(history.curve),
            "kept": self.kept,
            "over": self.over,
            "random": _random_state(self.device),
        }
        if self.over:
            return told
        under_way = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        return told | under_way | {"batches": self.batches.state(), "losses": self.losses}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state. Raises KeyError, RuntimeError and the like where it is none of this training."""
        if not state["over"]:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.batches.restore(state["batches"])
            self.losses = list(state["losses"])
        self.kept, self.over = state["kept"], state["over"]
        curve = msgspec.convert(state["curve"], tuple[Validation, ...])
        self.history = replace(self.history, curve=curve, steps=state["steps"], diverged=state["diverged"])
        _set_random_state(state["random"], self.device)

    def _take_in(self, score: Score) -> Validation:
        """Add a point to the curve, and keep its weights where they are the best so far."""
        point = Validation(
            step=self.history.steps, score=score, learning_loss=math.fsum(self.losses) / len(self.losses)
        )
        self.losses = []
        self.history = replace(self.history, curve=(*self.history.curve, point))
        if self.history.best is point:
            self.kept = copy.deepcopy(self.model.state_dict())
        self.over = self.history.steps == self.training.steps or gave_up(self.history, self.training)
        return point


def train(
    model: Model,
    splits: dict[Split, Examples],
    training: Training,
    *,
    seed: int,
    tell: Tell,
    checkpoint: Checkpoint | None = None,
) -> Trained:
    """Train a model, validating on the way; stop early where the training says so; keep the best weights.

    With a `checkpoint` it goes on from what that holds, and leaves there now and then how far it is, and at the end
    what came of it.
    """
    trainer = Trainer(model, splits, training, seed=seed)
    if checkpoint is not None:
        checkpoint.resume(trainer)
    while not trainer.over:
        point = trainer.advance()
        if point is not None:
            tell(f"step {point.step}/{training.steps}, {_told(point.score, model.form)}")
        if checkpoint is not None and (point is not None or trainer.over):
            checkpoint.offer(trainer, at_once=trainer.over)
    return trainer.finish()


def update(model: Model, batch: Examples, training: Training, *, optimizer: torch.optim.Optimizer, step: int) -> float:
    """Take one step on a batch, in parts whose gradients add up to the whole batch's; give its mean loss."""
    if not model.training:  # else every module is told again, every step
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
    """Make Adam (Kingma and Ba 2015) or AdamW (Loshchilov and Hutter 2019).

    Matrices and tables decay; biases, the scales of norms and whatever else is a vector or a number do not, as is usual
    since GPT-2.
    """
    kind = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
    weights = list(parameters)
    groups = [
        {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": training.weight_decay},
        {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    return kind(groups, lr=training.learning_rate, betas=(0.9, training.beta2))


def _told(score: Score, form: Form) -> str:
    return f"loss {score.loss:.3g}" if form.by_loss else f"accuracy {score.accuracy:.2f}"


def _random_state(device: torch.device) -> list[Tensor]:
    """Give the state of torch's own random streams: the CPU's, and the device's where that is another."""
    others = [] if device.type == "cpu" else [torch.get_device_module(device).get_rng_state()]
    return [torch.get_rng_state(), *others]


def _set_random_state(states: list[Tensor], device: torch.device) -> None:
    cpu, *others = states
    torch.set_rng_state(cpu)
    for state in others:
        torch.get_device_module(device).set_rng_state(state)
