"""The training loop, the same for every variant, so that accuracies differ by the mechanism alone."""

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

Report = Callable[[str], None]


class Score(Struct, frozen=True, kw_only=True):
    """A model's score on examples: the mean loss, the share of correct answers, and the number of answers."""

    loss: float
    accuracy: float
    answers: int

    def merit(self, *, by_loss: bool) -> tuple[float, float]:
        """Return what is higher for the better of two scores: by accuracy first, or by loss."""
        return (-self.loss, self.accuracy) if by_loss else (self.accuracy, -self.loss)


class Validation(Struct, frozen=True, kw_only=True):
    """A point of the learning curve; `learning_loss` is the mean training loss since the point before."""

    step: int
    score: Score
    learning_loss: float = math.nan


class Trained(Struct, frozen=True, kw_only=True):
    """The history of a training; when it is over, the model has the weights of its best validation.

    A training is over, and `diverged`, once its loss is NaN or infinite.
    """

    curve: tuple[Validation, ...]
    steps: int
    diverged: bool
    by_loss: bool = False

    @property
    def best(self) -> Validation:
        """The validation whose weights were kept, the first of equals."""
        return max(self.curve, key=lambda point: point.score.merit(by_loss=self.by_loss))


class Trainer:
    """A training in progress: everything that its next step depends on, stored by `state` and set by `restore`."""

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
        """Run a step, and return the validation after it if one was due; set `over` at the end of the training."""
        step, training = self.history.steps + 1, self.training
        loss = update(self.model, next(self.batches), training, optimizer=self.optimizer, step=step)
        self.losses.append(loss)
        due = math.isfinite(loss) and (step % training.validate_every == 0 or step == training.steps)
        score = evaluate(self.model, self.splits["validation"], training.part) if due else None
        diverged = not math.isfinite(score.loss if score else loss)
        self.history = replace(self.history, steps=step, diverged=diverged)
        self.over = diverged
        return None if score is None or diverged else self._record(score)

    def finish(self) -> Trained:
        """Load the best weights into the model, and return the history."""
        self.model.load_state_dict(self.kept)
        return self.history

    def state(self) -> dict[str, Any]:
        """Return the state as tensors and plain values; of a training that is over, only its result."""
        history = self.history
        result = {
            "steps": history.steps,
            "diverged": history.diverged,
            "curve": msgspec.to_builtins(history.curve),
            "kept": self.kept,
            "over": self.over,
            "random": _random_state(self.device),
        }
        if self.over:
            return result
        weights = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        return result | weights | {"batches": self.batches.state(), "losses": self.losses}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state. Raises KeyError, RuntimeError and the like for a state of another training."""
        if not state["over"]:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.batches.restore(state["batches"])
            self.losses = list(state["losses"])
        self.kept, self.over = state["kept"], state["over"]
        curve = msgspec.convert(state["curve"], tuple[Validation, ...])
        self.history = replace(self.history, curve=curve, steps=state["steps"], diverged=state["diverged"])
        _set_random_state(state["random"], self.device)

    def _record(self, score: Score) -> Validation:
        """Add a validation to the curve, and keep its weights if they are the best so far."""
        point = Validation(
            step=self.history.steps, score=score, learning_loss=math.fsum(self.losses) / len(self.losses)
        )
        self.losses = []
        self.history = replace(self.history, curve=(*self.history.curve, point))
        if self.history.best is point:
            self.kept = copy.deepcopy(self.model.state_dict())
        self.over = self.history.steps == self.training.steps or stops_early(self.history, self.training)
        return point


def train(trainer: Trainer, *, report: Report, checkpoint: Checkpoint | None = None) -> Trained:
    """Train a model to the end, load its best weights, and return the history.

    With a `checkpoint`, training resumes from it, and writes its state there from time to time and at the end.
    """
    if checkpoint is not None:
        checkpoint.resume(trainer)
    while not trainer.over:
        point = trainer.advance()
        if point is not None:
            report(f"step {point.step}/{trainer.training.steps}, {_summary(point.score, trainer.model.form)}")
        if checkpoint is not None and (point is not None or trainer.over):
            checkpoint.offer(trainer, at_once=trainer.over)
    return trainer.finish()


def update(model: Model, batch: Examples, training: Training, *, optimizer: torch.optim.Optimizer, step: int) -> float:
    """Run one step on a batch, in parts whose gradients add up to the whole batch's; return its mean loss."""
    if not model.training:  # visits every module: not at every step
        model.train()
    for group in optimizer.param_groups:
        group["lr"] = rate(training, step)
    optimizer.zero_grad()
    count = max(1, model.form.count(batch.targets))
    total = 0.0
    for part in batch.parts(training.part):
        loss = loss_sum(model.form, *model.answers(model(part.inputs, part.context), part.targets)) / count
        loss.backward()
        total += loss.item()
    if training.clip:
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip)
    optimizer.step()
    return total


def rate(training: Training, step: int) -> float:
    """Return the learning rate of a step, the first being 1: a linear warm-up from zero, then the decay to zero.

    Zero is reached one step before the first and one step after the last, so that no step is wasted.
    """
    rising = max(1, round(training.warmup * training.steps))
    if step <= rising:
        return training.learning_rate * step / rising
    share = (step - rising) / (training.steps - rising + 1)
    decay = {"cosine": (1 + math.cos(math.pi * share)) / 2, "linear": 1 - share, "none": 1.0}
    return training.learning_rate * decay[training.decay]


@torch.no_grad()
def evaluate(model: Model, examples: Examples, size: int) -> Score:
    """Return a model's score on examples, computed `size` at a time, without dropout."""
    model.eval()
    loss, correct, count = 0.0, 0, 0
    for part in examples.parts(size):
        # Repeat examples to fill the last part: a variant is only called at the shape that it was built for.
        full = part.select(torch.arange(size, device=part.inputs.device) % len(part))
        answers, targets = model.answers(model(full.inputs, full.context)[: len(part)], part.targets)
        loss += float(loss_sum(model.form, answers, targets))
        correct += int(is_correct(model.form, answers, targets).sum())
        count += len(targets)
    return Score(loss=loss / count, accuracy=correct / count, answers=count)


def loss_sum(form: Form, answers: Tensor, targets: Tensor) -> Tensor:
    """Return the sum of cross-entropies of classes and tokens, or of squared errors of numbers."""
    if form.answer == "number":
        return mse_loss(answers, targets, reduction="sum")
    return cross_entropy(answers, targets, reduction="sum")


def is_correct(form: Form, answers: Tensor, targets: Tensor) -> Tensor:
    """Return for each answer whether its likeliest class is the target, or its number is within the tolerance."""
    if form.answer == "number":
        return (answers - targets).abs() <= form.tolerance
    return answers.argmax(dim=-1) == targets


def stops_early(history: Trained, training: Training) -> bool:
    """Return whether training stops early: by `enough` accuracy, or `patience` validations without improvement."""
    if history.best.score.accuracy >= training.enough:
        return True
    since = [point for point in history.curve if point.step > history.best.step]
    return bool(training.patience) and len(since) >= training.patience


def make_optimizer(parameters: Iterable[torch.nn.Parameter], training: Training) -> torch.optim.Optimizer:
    """Return Adam (Kingma and Ba 2015) or AdamW (Loshchilov and Hutter 2019).

    Weight decay applies to matrices and embeddings, not to vectors such as biases and the scales of norms, as is usual
    since GPT-2; nor to parameters that a mechanism marks with `_no_weight_decay`, as is usual for gates and decays of
    recurrent ones (Gu and Dao 2023, "Mamba", and flash-linear-attention).
    """
    kind = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
    decayed: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for weight in parameters:
        (decayed if weight.ndim > 1 and not getattr(weight, "_no_weight_decay", False) else others).append(weight)
    groups = [{"params": decayed, "weight_decay": training.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return kind(groups, lr=training.learning_rate, betas=(0.9, training.beta2))


def _summary(score: Score, form: Form) -> str:
    return f"loss {score.loss:.3g}" if form.by_loss else f"accuracy {score.accuracy:.2f}"


def _random_state(device: torch.device) -> list[Tensor]:
    """Return the state of torch's global generators: the CPU's, and the device's if it has one."""
    others = [] if device.type == "cpu" else [torch.get_device_module(device).get_rng_state()]
    return [torch.get_rng_state(), *others]


def _set_random_state(states: list[Tensor], device: torch.device) -> None:
    cpu, *others = states
    torch.set_rng_state(cpu)
    for state in others:
        torch.get_device_module(device).set_rng_state(state)
