"""Trainings in a test's own process: of a task as it is, and of one whose answers are dealt out anew."""

import torch
from torch import Generator, Tensor

from attnbench import Case
from attnbench.contracts.record import Job, Probe, Protocol
from attnbench.contracts.task import IGNORE, Split, Task, Training, build_task, settings_of, shape_of
from attnbench.plugins.registry import entries, load
from attnbench.train.accuracy import build_model
from attnbench.train.data import Examples, draw_splits
from attnbench.train.loop import Trainer, train
from attnbench.train.model import Model
from helpers.made_files import options_for
from laws.workloads import MECHANISMS, case_for, mask_of

TASKS = {name: entry for name, claims in entries("tasks").items() for entry in claims}


class Permuted:
    """A task whose answers are dealt out anew: nothing is left to learn but which answer is the commonest."""

    def __init__(self, task: Task) -> None:
        self.task, self.form = task, task.form

    def examples(self, split: Split, count: int, generator: Generator) -> tuple[Tensor, ...]:
        *shown, targets = self.task.examples(split, count, generator)
        asked = targets != IGNORE
        answers = targets[asked]
        targets[asked] = answers[torch.randperm(len(answers), generator=generator)]
        return *shown, targets


def built(name: str, **given: object) -> tuple[Task, Training]:
    plugin = load(TASKS[name].target)
    settings = settings_of(plugin, {**options_for(name), **given})
    return build_task(plugin, settings), settings.training


def model_of(variant: str, task: Task, training: Training) -> Model:
    """Build the model in which a variant is trained, its weights drawn from seed 0."""
    mask = task.form.mask if task.form.causal else mask_of(variant)
    case = Case(variant=variant, shape=shape_of(task.form, training), mask=mask, passes="")
    case = case_for(variant, case, {}, dtype="float32")
    probe = Probe(kind="accuracy", task="in a test")
    job = Job(case=case, probe=probe, protocol=Protocol(), target=MECHANISMS[variant].target)
    return build_model(job, task, training, seed=0)


def trained(variant: str, task: Task, training: Training) -> tuple[Model, dict[Split, Examples]]:
    """Train a variant from seed 0; return the model with its best weights, and the examples."""
    model = model_of(variant, task, training)
    splits = draw_splits(task, training, seed=0, device="cpu")
    train(Trainer(model, splits, training, seed=0), report=lambda _text: None)
    return model, splits
