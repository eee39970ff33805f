"""What the attention of a trained model is given: queries, keys and values of an example of its task."""

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


class Attended(Struct, frozen=True, eq=False):
    """A layer's mechanism and the tensors that it was called with."""

    attention: Attention
    q_BHTD: torch.Tensor
    k_BHTD: torch.Tensor
    v_BHTD: torch.Tensor


class _Recorder(nn.Module):
    """Stands in a mechanism's place, and keeps what it is called with."""

    def __init__(self, mechanism: Attention) -> None:
        super().__init__()
        self.mechanism, self.given = mechanism, tuple[torch.Tensor, ...]()

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        self.given = given
        return self.mechanism(*given)


def attended(checkpoint: Path) -> tuple[Job, list[Attended]]:
    """Show a trained model one test example of its task, and give what its self-attention was called with, by layer.

    Raises ValueError where the file is damaged or the training is not over, OSError where it cannot be read.
    """
    job, model = load_best(checkpoint)
    task = build_task(plugin := registry.load(job.task_target), settings_of(plugin, job.probe.task_options))
    example = draw(task, "test", 1, generator_of(seed_of(job), "test")).each(lambda tensor: tensor.to(job.case.device))
    recorders = []
    for block in (residual.block for residual in model.blocks):
        if isinstance(block, MultiHead):
            recorders.append(_Recorder(block.mechanism))
            block.mechanism = recorders[-1]
    with torch.no_grad():
        model(*((example.inputs,) if example.context is None else (example.inputs, example.context)))
    return job, [Attended(recorder.mechanism, *recorder.given) for recorder in recorders]
