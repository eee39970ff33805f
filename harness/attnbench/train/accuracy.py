"""The accuracy probe: train a variant on a task from one seed, and score it on test examples."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import count
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
from attnbench.train.longer import Build, measure_longer
from attnbench.train.loop import Trained, Trainer, evaluate, train
from attnbench.train.matching import matched
from attnbench.train.measurements import flagged, of_test, of_trial
from attnbench.train.model import Model


def measure(job: Job, report: Callable[[str], None], *, checkpoint: Path | None = None) -> Outcome:
    """Train a job's variant on its task from the seed of the job's round, and test its best weights (not a trial's).

    Training resumes from the file `checkpoint` if it exists, and leaves the best weights there (see `load_best`).

    Raises Unsupported where the variant does not serve the task. A training that diverges has a score like any other,
    under the flag `diverged`: that of its best weights before, or of the initial ones if none were validated.
    """
    seed, (task, training) = seed_of(job), task_of(job)
    file = Checkpoint(checkpoint, job) if checkpoint else None
    job, training, model = _matched_model(job, task, training, seed=seed)
    progress = _Progress(report)
    model.register_forward_pre_hook(progress.repeat)
    progress.report("drawing the examples")
    splits = draw_splits(task, training, seed=seed, device=job.case.device)
    trained = train(Trainer(model, splits, training, seed=seed), report=progress.report, checkpoint=file)
    if file and job.probe.trial:
        file.remove()
    measurements = of_trial(trained) if job.probe.trial else _tested(model, splits, trained, training)
    build = _builder(job, training, seed=seed, progress=progress)
    beyond, missing = ((), {}) if job.probe.trial else measure_longer(model, task, training, seed=seed, build=build)
    weights_kept = training.weight_dropout > 0 and not all(map(variant.drops_weights, model.mechanisms))
    flags = {"diverged": trained.diverged, "weights_kept": weights_kept, "edge_rate": _on_an_edge(job.probe)}
    return Outcome(
        status="ok",
        measurements=flagged((*measurements, *beyond), *(flag for flag, is_raised in flags.items() if is_raised)),
        backend=variant.backend_of(model.mechanisms[0]),
        facts={
            "parameters": model.size,
            "steps": trained.steps,
            "diverged": trained.diverged,
            "learning_rate": training.learning_rate,
            "by_loss": trained.by_loss,
            "answers": task.form.count(splits["test"].targets),
            **_own_positions(job.probe, training),
            **({} if training.match == "none" else {"width": training.width}),
            **missing,
            **_searched(job.probe),
            **(file.facts if file else {}),
        },
    )


def _matched_model(job: Job, task: Task, training: Training, *, seed: int) -> tuple[Job, Training, Model]:
    """Return the model at the width that the training asks for, with the job and the training at that width."""
    job, training = matched(
        job, task, training, build=lambda job, training: build_model(job, task, training, seed=seed)
    )
    return job, training, build_model(job, task, training, seed=seed)


def _searched(probe: Probe) -> dict[str, Option]:
    return {"searched_rates": ", ".join(f"{rate:g}" for rate in probe.searched)} if probe.searched else {}


def _tested(model: Model, splits: dict[Split, Examples], trained: Trained, training: Training) -> Iterator[Measurement]:
    """Score the best weights on the test examples, and on as many training examples."""
    tested = evaluate(model, splits["test"], training.part)
    learned = evaluate(model, splits["train"].first(len(splits["test"])), training.part)
    return of_test(model.form, tested, learned, trained, parameters=model.size)


def _builder(job: Job, training: Training, *, seed: int, progress: "_Progress") -> Build:
    """Return a function that builds a job's model for a task of another length."""

    def build(task: Task, batch: int) -> Model:
        shape = replace(job.case.shape, batch=batch, seq_q=task.form.length, seq_k=task.form.length)
        model = build_model(replace(job, case=replace(job.case, shape=shape)), task, training, seed=seed)
        model.register_forward_pre_hook(progress.repeat)
        return model

    return build


def _own_positions(probe: Probe, training: Training) -> dict[str, Option]:
    """Return the fact of the model's positions where the mechanism carries its own, and they are not the task's."""
    asked = probe.task_options.get("positions", training.positions)
    return {} if training.positions == asked else {"positions": training.positions}


def _on_an_edge(probe: Probe) -> bool:
    return bool(probe.searched) and probe.rate in (min(probe.searched), max(probe.searched))


def load_best(checkpoint: Path) -> tuple[Job, Model]:
    """Return the job and the model, with its best weights, of a finished training, from its checkpoint alone.

    Raises ValueError if the file is damaged or the training is not over, OSError if it cannot be read.
    """
    job, state = read(checkpoint)
    if not state["over"]:
        raise ValueError("the training is not over")
    task, training = task_of(job)
    _, _, model = _matched_model(job, task, training, seed=seed_of(job))
    model.load_state_dict(state["kept"])
    return job, model.eval()


def task_of(job: Job) -> tuple[Task, Training]:
    """Return the task of a job with its training, at the job's own learning rate."""
    plugin = registry.load(job.task_target)
    settings = settings_of(plugin, job.probe.task_options)
    training = settings.training
    # A swapped model keeps the positions that it was trained with.
    if job.probe.kind == "accuracy" and variant.support_of(registry.load(job.target)).positions:
        training = replace(training, positions="none")
    if job.probe.rate is not None:
        training = replace(training, learning_rate=job.probe.rate)
    return build_task(plugin, settings), training


class _Progress:
    """Reports a training's progress, again after a second: between validations, that prevents the job's timeout."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report, self._text, self._reported_s = report, "", -math.inf

    def report(self, text: str) -> None:
        self._text, self._reported_s = text, time.monotonic()
        self._report(text)

    def repeat(self, *_call: object) -> None:
        """Before a call of the model: report the last text again, if it was a second ago or more."""
        if time.monotonic() - self._reported_s >= 1:
            self.report(self._text)


def seed_of(job: Job) -> int:
    """Return the seed of a job's data and weights: rounds and trials differ in it, variants do not."""
    purpose = ("trial",) if job.probe.trial else ()
    return int(digest(job.case.seed, job.round, *purpose), 16) % 2**31


def build_model(job: Job, task: Task, training: Training, *, seed: int) -> Model:
    """Return the model, each layer with a mechanism of its own; every weight follows from the seed.

    A variant whose layers share weights passes the first layer's to the later ones (`share`). Raises Unsupported where
    the variant does not serve the task.
    """
    plugin, form, layers = registry.load(job.target), task.form, training.layers
    support = variant.support_of(plugin)
    # Self-attention is among the inputs; attention to a context has no mask.
    inputs = replace(job.case, shape=replace(job.case.shape, seq_k=job.case.shape.seq_q))
    context = replace(job.case, mask=Mask())
    if form.context_length:
        variant.check_cross(support)
    torch.manual_seed(seed)
    mechanisms = _mechanisms(plugin, inputs, seeds=range(seed, seed + layers))
    cross_seeds = range(seed + layers, seed + 2 * layers) if form.context_length else ()
    crossing = _mechanisms(plugin, context, seeds=cross_seeds)
    torch.manual_seed(seed + layers + len(crossing))  # the rest starts the same, however much a variant has drawn
    dtype = getattr(torch, job.case.dtype)
    model = Model(
        form,
        training,
        mechanisms,
        crossing=crossing,
        ties_qk=support.ties_qk,
        rotated_parts=support.rotated_parts,
        dtype=dtype,
    )
    return model.to(device=job.case.device, dtype=torch.float32)  # a variant's own weights are trained in float32 too


def _mechanisms(plugin: Any, case: Case, *, seeds: Iterable[int]) -> list[variant.Attention]:
    option = variant.support_of(plugin).layer
    numbered = ({**case.options, option: number} if option else case.options for number in count(1))
    mechanisms = [
        variant.build(plugin, replace(case, seed=seed, options=options))
        for seed, options in zip(seeds, numbered, strict=False)
    ]
    for later in mechanisms[1:]:
        if variant.has_share(later):
            later.share(mechanisms[0])
    return mechanisms
