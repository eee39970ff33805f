"""The width at which a variant's model is compared with exact attention's: as it is, or equal in size or in state."""

# B batch, H heads, G key/value heads, N positions, D head dimension, W width (H * D)
from collections.abc import Callable
from typing import Any

import torch
from msgspec.structs import replace

from attnbench.contracts import variant
from attnbench.contracts.case import Case
from attnbench.contracts.record import Job
from attnbench.contracts.task import Task, Training
from attnbench.plugins import registry
from attnbench.train.model import Model

_WIDEST = 16  # times the task's own width

Size = Callable[[int], int]  # of a model, by its width


def matched(
    job: Job, task: Task, training: Training, *, build: Callable[[Job, Training], Model]
) -> tuple[Job, Training]:
    """Return a job and its training at the width that `training.match` asks for, the task's own unless it asks.

    "parameters": the model's size comes closest to that of exact attention's model at the task's width. "state": what a
    layer keeps of the whole sequence to decode the next token does, which for exact attention is its keys and values.
    Widths are multiples of the heads (of twice the heads with rotary positions), up to 16 times the task's.
    """
    if training.match == "none":
        return job, training

    def at(width: int) -> tuple[Job, Training]:
        shape = replace(job.case.shape, head_dim=width // training.heads)
        return replace(job, case=replace(job.case, shape=shape)), replace(training, width=width)

    if training.match == "parameters":
        none = [_nothing] * training.layers
        target = Model(task.form, training, none, crossing=none, ties_qk=False).size
        width = _closest(lambda width: build(*at(width)).size, target, training)
    else:
        plugin = registry.load(job.target)
        target = _cache(job.case)
        width = _closest(lambda width: state_size(plugin, at(width)[0].case), target, training)
    return at(width)


def state_size(plugin: Any, case: Case) -> int:
    """Return the numbers that a mechanism keeps for each sequence of a case to decode its next token.

    Without a state of its own a mechanism keeps every key and value. Raises Unsupported.
    """
    one = replace(case, shape=replace(case.shape, batch=1))
    mechanism = variant.build(plugin, one)
    if not variant.has_steps(mechanism):
        return _cache(case)
    shape = one.shape
    kept_BGND = torch.zeros(1, shape.kv_heads, shape.seq_k, shape.head_dim, device=case.device)
    with torch.no_grad():
        return _numbers(mechanism.prefill(kept_BGND, kept_BGND))


def _cache(case: Case) -> int:
    return 2 * case.shape.kv_heads * case.shape.seq_k * case.shape.head_dim


def _numbers(state: variant.State) -> int:
    if isinstance(state, torch.Tensor):
        return state.numel()
    return sum(map(_numbers, state)) if isinstance(state, tuple) else 1


def _closest(size: Size, target: int, training: Training) -> int:
    """Return the width whose size, which grows with it, comes closest to a target."""
    step = training.heads * (2 if training.positions == "rotary" else 1)
    low, high = 1, max(1, _WIDEST * training.width // step)
    while low < high:
        middle = (low + high) // 2
        if size(middle * step) < target:
            low = middle + 1
        else:
            high = middle
    candidates = [steps * step for steps in (low - 1, low) if steps > 0]
    return min(candidates, key=lambda width: abs(size(width) - target))


def _nothing(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:  # a mechanism without parameters
    del q, k
    return v
