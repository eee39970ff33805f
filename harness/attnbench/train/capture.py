"""The queries, keys and values that the self-attention of a trained model is called with, on an example of its task."""

# B batch, H heads, T positions, D head dimension
from pathlib import Path

import torch
from msgspec import Struct
from torch import nn

from attnbench.contracts.record import Job
from attnbench.contracts.task import build_task, settings_of
from attnbench.contracts.variant import Attention
from attnbench.plugins import registry
from attnbench.train.accuracy import load_best, seed_of
from attnbench.train.data import draw, generator_of
from attnbench.train.model import MultiHead


class Captured(Struct, frozen=True, eq=False):
    """A layer's mechanism, and the q_BHTD, k_BHTD and v_BHTD that it was called with."""

    attention: Attention
    tensors: tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class _Recorder(nn.Module):
    """Replaces a mechanism, and keeps the arguments of its call."""

    def __init__(self, mechanism: Attention) -> None:
        super().__init__()
        self.mechanism = mechanism
        self.captured: list[Captured] = []

    def forward(self, q_BHTD: torch.Tensor, k_BHTD: torch.Tensor, v_BHTD: torch.Tensor) -> torch.Tensor:
        self.captured.append(Captured(self.mechanism, (q_BHTD, k_BHTD, v_BHTD)))
        return self.mechanism(q_BHTD, k_BHTD, v_BHTD)


def capture(checkpoint: Path) -> tuple[Job, list[Captured]]:
    """Run a trained model on one test example of its task, and return its job and the calls of its self-attention.

    There is one call for each layer, in order. Raises ValueError where the file is damaged or the training is not over,
    OSError where it cannot be read.
    """
    job, model = load_best(checkpoint)
    task = build_task(plugin := registry.load(job.task_target), settings_of(plugin, job.probe.task_options))
    example = draw(task, "test", 1, generator_of(seed_of(job), "test")).map(lambda tensor: tensor.to(job.case.device))
    recorders = []
    for block in (residual.block for residual in model.blocks):
        if isinstance(block, MultiHead):
            recorders.append(_Recorder(block.mechanism))
            block.mechanism = recorders[-1]
    with torch.no_grad():
        model(*((example.inputs,) if example.context is None else (example.inputs, example.context)))
    return job, [captured for recorder in recorders for captured in recorder.captured]
