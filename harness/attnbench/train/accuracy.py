"""The accuracy probe: a variant trained on a task from one seed, and held to examples that it has never seen."""

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from msgspec.structs import replace

from attnbench import registry, variant
from attnbench.case import Case, Mask, digest
from attnbench.record import Job, Outcome
from attnbench.task import Task, Training, build_task, settings_of
from attnbench.train.checkpoint import Checkpoint, read
from attnbench.train.data import draw_splits
from attnbench.train.figures import flagged, measurements
from attnbench.train.loop import evaluate, train
from attnbench.train.model import Model


def measure(job: Job, tell: Callable[[str], None], *, checkpoint: Path | None = None) -> Outcome:
    """Train a job's variant on its task, from the seed of the job's round, and test the best weights.

    What is in the file `checkpoint` is gone on from, and at the end the best weights are there (see `load_best`).

    Raises Unsupported where the variant does not serve the task. A training that diverges is a score like any other,
    under the flag `diverged`: that of the best weights before, or of the first ones where none were validated.
    """
    seed, (task, training) = seed_of(job), _task_of(job)
    model = build_model(job, task, training, seed=seed)
    progress = Progress(tell)
    model.register_forward_pre_hook(lambda *_: progress.beat())
    progress.say("drawing the examples")
    splits = draw_splits(task, training, seed=seed, device=job.case.device)
    file = Checkpoint(checkpoint, job) if checkpoint else None
    trained = train(model, splits, training, seed=seed, tell=progress.say, checkpoint=file)
    tested = evaluate(model, splits["test"], training.part)
    learned = evaluate(model, splits["train"].first(len(splits["test"])), training.part)
    kept = training.weight_dropout > 0 and not all(map(variant.drops_weights, model.mechanisms))
    flags = [flag for flag, raised in (("diverged", trained.diverged), ("weights_kept", kept)) if raised]
    told = measurements(task.form, tested, learned, trained, parameters=model.size)
    return Outcome(
        status="ok",
        measurements=flagged(told, *flags),
        backend=variant.backend_of(model.mechanisms[0]),
        facts={
            "parameters": model.size,
            "steps": trained.steps,
            "diverged": trained.diverged,
            "learning_rate": training.learning_rate,
            "answers": tested.answers,
            **(file.facts if file else {}),
        },
    )


def load_best(checkpoint: Path) -> tuple[Job, Model]:
    """Build the model of a training that is over, with its best weights, from its file alone.

    Raises ValueError where the file is damaged or the training still under way, OSError where it cannot be read.
    """
    job, state = read(checkpoint)
    if not state["over"]:
        raise ValueError("the training is not over")
    task, training = _task_of(job)
    model = build_model(job, task, training, seed=seed_of(job))
    model.load_state_dict(state["kept"])
    return job, model.eval()


def _task_of(job: Job) -> tuple[Task, Training]:
    plugin = registry.load(job.task_target)
    settings = settings_of(plugin, job.probe.task_options)
    return build_task(plugin, settings), settings.training


class Progress:
    """Says how far a training is, again every second or so: its sign of life between two validations."""

    def __init__(self, tell: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self.tell, self.clock, self.text, self.said_s = tell, clock, "", -math.inf

    def say(self, text: str) -> None:
        """Say something new."""
        self.text, self.said_s = text, self.clock()
        self.tell(text)

    def beat(self) -> None:
        """Say the same again, if it has been a second: the model is at work."""
        if self.clock() - self.said_s >= 1:
            self.say(self.text)


def seed_of(job: Job) -> int:
    """Give the seed of a job's data and weights: every round has its own, and every variant the same."""
    return int(digest(job.case.seed, job.round), 16) % 2**31


def build_model(job: Job, task: Task, training: Training, *, seed: int) -> Model:
    """Build the model with a variant of its own in each layer; every weight follows from the seed.

    Raises Unsupported where the variant does not serve the task.
    """
    plugin, form, layers = registry.load(job.target), task.form, training.layers
    support, (inputs, context) = variant.support_of(plugin), attended(job.case)
    if form.context_length:
        variant.check_cross(support)
    torch.manual_seed(seed)
    mechanisms = [variant.build(plugin, replace(inputs, seed=seed + layer)) for layer in range(layers)]
    over = range(layers, 2 * layers) if form.context_length else ()
    crossing = [variant.build(plugin, replace(context, seed=seed + place)) for place in over]
    torch.manual_seed(seed + layers + len(crossing))  # whatever a variant has drawn, the rest of the model starts alike
    dtype = getattr(torch, job.case.dtype)
    model = Model(form, training, mechanisms, crossing=crossing, ties_qk=support.ties_qk, dtype=dtype)
    return model.to(device=job.case.device, dtype=torch.float32)  # a variant's own weights are trained in float32 too


def attended(case: Case) -> tuple[Case, Case]:
    """Give the case of attention among a task's inputs, and that of attention to its context, which is seen whole."""
    inputs = replace(case, shape=replace(case.shape, seq_k=case.shape.seq_q))
    return inputs, replace(case, mask=Mask())
