"""The accuracy probe: a variant trained on a task from one seed, and held to examples that it has never seen."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace

from attnbench.contracts import variant
from attnbench.contracts.case import Case, Mask, Option, digest
from attnbench.contracts.record import Job, Measurement, Outcome, Probe
from attnbench.contracts.task import Split, Task, Training, build_task, settings_of
from attnbench.plugins import registry
from attnbench.train.checkpoint import Checkpoint, read
from attnbench.train.data import Examples, draw_splits
from attnbench.train.figures import flagged, measurements, trial
from attnbench.train.loop import Trained, evaluate, train
from attnbench.train.model import Model


def measure(job: Job, tell: Callable[[str], None], *, checkpoint: Path | None = None) -> Outcome:
    """Train a job's variant on its task, from the seed of the job's round, and test the best weights; a trial's not.

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
    if file and job.probe.trial:
        file.remove()
    figures = trial(trained) if job.probe.trial else _tested(model, splits, trained, training)
    kept = training.weight_dropout > 0 and not all(map(variant.drops_weights, model.mechanisms))
    raised = {"diverged": trained.diverged, "weights_kept": kept, "edge_rate": _on_an_edge(job.probe)}
    return Outcome(
        status="ok",
        measurements=flagged(figures, *(flag for flag, is_raised in raised.items() if is_raised)),
        backend=variant.backend_of(model.mechanisms[0]),
        facts={
            "parameters": model.size,
            "steps": trained.steps,
            "diverged": trained.diverged,
            "learning_rate": training.learning_rate,
            "by_loss": trained.by_loss,
            "answers": task.form.count(splits["test"].targets),
            **_searched(job.probe),
            **(file.facts if file else {}),
        },
    )


def _searched(probe: Probe) -> dict[str, Option]:
    return {"searched_rates": ", ".join(f"{rate:g}" for rate in probe.searched)} if probe.searched else {}


def _tested(model: Model, splits: dict[Split, Examples], trained: Trained, training: Training) -> Iterator[Measurement]:
    """Hold the best weights against what they have never seen, and against as much of what they learned from."""
    tested = evaluate(model, splits["test"], training.part)
    learned = evaluate(model, splits["train"].first(len(splits["test"])), training.part)
    return measurements(model.form, tested, learned, trained, parameters=model.size)


def _on_an_edge(probe: Probe) -> bool:
    return bool(probe.searched) and probe.rate in (min(probe.searched), max(probe.searched))


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
    training = settings.training
    if job.probe.rate is not None:
        training = replace(training, learning_rate=job.probe.rate)
    return build_task(plugin, settings), training


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
    """Give the seed of a job's data and weights: every round and the trials have their own, every variant the same."""
    purpose = ("trial",) if job.probe.trial else ()
    return int(digest(job.case.seed, job.round, *purpose), 16) % 2**31


def build_model(job: Job, task: Task, training: Training, *, seed: int) -> Model:
    """Build the model with a variant of its own in each layer; every weight follows from the seed.

    Where a variant shares weights between layers, the later ones are given the first (attnbench.variant.Shares).
    Raises Unsupported where the variant does not serve the task.
    """
    plugin, form, layers = registry.load(job.target), task.form, training.layers
    support, (inputs, context) = variant.support_of(plugin), attended(job.case)
    if form.context_length:
        variant.check_cross(support)
    torch.manual_seed(seed)
    mechanisms = _layers(plugin, inputs, seeds=range(seed, seed + layers))
    crossing = _layers(plugin, context, seeds=range(seed + layers, seed + 2 * layers)) if form.context_length else []
    torch.manual_seed(seed + layers + len(crossing))  # whatever a variant has drawn, the rest of the model starts alike
    dtype = getattr(torch, job.case.dtype)
    model = Model(form, training, mechanisms, crossing=crossing, ties_qk=support.ties_qk, dtype=dtype)
    return model.to(device=job.case.device, dtype=torch.float32)  # a variant's own weights are trained in float32 too


def _layers(plugin: Any, case: Case, *, seeds: Iterable[int]) -> list[variant.Attention]:
    mechanisms = [variant.build(plugin, replace(case, seed=seed)) for seed in seeds]
    for later in mechanisms[1:]:
        if variant.has_share(later):
            later.share(mechanisms[0])
    return mechanisms


def attended(case: Case) -> tuple[Case, Case]:
    """Give the case of attention among a task's inputs, and that of attention to its context, which is seen whole."""
    inputs = replace(case, shape=replace(case.shape, seq_k=case.shape.seq_q))
    return inputs, replace(case, mask=Mask())
