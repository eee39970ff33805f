"""What the training loop costs on top of the model: one step of it against the same step written out by hand."""

import statistics
import time
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from attnbench.contracts.task import IGNORE, Form, Training, build_task, settings_of
from attnbench.plugins.registry import find, load
from attnbench.train.data import Examples, generator_of
from attnbench.train.loop import make_optimizer, update
from attnbench.train.model import Model
from helpers.threads import one_thread

__all__ = ["one_thread"]

BLOCKS, STEPS = 15, 20


def bare_step(model: Model, batch: Examples, optimizer: torch.optim.Optimizer) -> float:
    """Take a step as a person would who trains one model on one task."""
    optimizer.zero_grad()
    asked = batch.targets != IGNORE
    loss = cross_entropy(model.head(model(batch.inputs)[asked]), batch.targets[asked])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def test_a_step_of_the_loop_costs_at_most_a_tenth_more_than_the_bare_step() -> None:
    plugin = load(find("mqar", "tasks", flag="").target)
    settings = settings_of(plugin, {})
    task, training = build_task(plugin, settings), settings.training
    batch = Examples(*task.examples("train", training.batch, generator_of(0, "bench")))
    (model, optimizer), (other, its_optimizer) = (start(task.form, training) for _ in range(2))
    bare = partial(bare_step, other, batch, its_optimizer)
    ours = partial(update, model, batch, training, optimizer=optimizer, step=training.steps // 2)
    assert ours() == pytest.approx(bare())  # the same question
    pairs = [(block(bare), block(ours)) for _ in range(BLOCKS)]
    ratio = statistics.median(our_s / bare_s for bare_s, our_s in pairs)
    bare_s = statistics.median(bare_s for bare_s, _ in pairs)
    print(f"a step of mqar tiny: {bare_s * 1e3:.2f} ms by hand, {ratio:.3f} times that in the loop")
    assert ratio <= 1.1


def start(form: Form, training: Training) -> tuple[Model, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Model(form, training, [scaled_dot_product_attention] * training.layers, ties_qk=False)
    return model, make_optimizer(model.parameters(), training)


def block(step: Callable[[], float]) -> float:
    """Time some steps in a row, and give the seconds of one."""
    started = time.perf_counter()
    for _ in range(STEPS):
        step()
    return (time.perf_counter() - started) / STEPS
