"""The swap probe: a trained exact model with a mechanism in place of its attention, as it is and after fine-tuning."""

# B batch, H heads, T positions, S keys, D head dimension, E width, N rows of joined projections
from collections.abc import Callable
from pathlib import Path

import torch
from msgspec.structs import replace
from safetensors import safe_open
from torch import Tensor, nn

from attnbench.contracts import variant
from attnbench.contracts.record import Job, Outcome, Swap
from attnbench.contracts.task import Task, Training
from attnbench.contracts.variant import Attention
from attnbench.plugins.exact import TARGET
from attnbench.train.accuracy import build_model, seed_of, task_of
from attnbench.train.checkpoint import read
from attnbench.train.data import Batches, draw_splits
from attnbench.train.exact import Exact
from attnbench.train.loop import evaluate, make_optimizer, update
from attnbench.train.measurements import of_swapped
from attnbench.train.model import Model, MultiHead

Weights = dict[str, Tensor]
_WARMUP = 0.05  # of the fine-tuning's steps; the rate does not decay, so that its end tells what more steps would do


def measure(job: Job, report: Callable[[str], None], *, base: Path) -> Outcome:
    """Test the exact model of the job's seed with the mechanism in its place, before and after fine-tuning.

    The model has the weights of the checkpoint `base`. Fine-tuning is the same for all: the task's optimiser and
    examples, at the swap's own rate. Raises Unsupported where the mechanism does not serve the task, OSError where
    there is no such checkpoint.
    """
    assert job.probe.swap is not None
    swap, seed, (task, training) = job.probe.swap, seed_of(job), task_of(job)
    weights = read_weights(base, seed=job.round)
    report("drawing the examples")
    splits = draw_splits(task, training, seed=seed, device=job.case.device)
    own = _exact_model(job, task, training, weights)
    model, untrained = swapped_model(job, task, training, weights)
    exact, swapped = (evaluate(each, splits["test"], training.part) for each in (own, model))
    tuning = replace(training, steps=swap.steps, learning_rate=swap.learning_rate, warmup=_WARMUP, decay="none")
    _tune(model, Batches(splits["train"], tuning.batch, seed=seed + 1), tuning, report)
    tuned = evaluate(model, splits["test"], training.part)
    return Outcome(
        status="ok",
        measurements=(*of_swapped("swap", swapped, exact), *of_swapped("tuned", tuned, exact)),
        backend=variant.backend_of(model.mechanisms[0]),
        facts={
            "parameters": model.size,
            "untrained_parameters": sum(model.state_dict()[name].numel() for name in untrained),
            "untrained": ", ".join(untrained),
            "steps": swap.steps,
            "layers_swapped": ", ".join(map(str, swap.layers)) or "all",
            "exact_loss": exact.loss,
            "exact_accuracy": exact.accuracy,
            "answers": task.form.count(splits["test"].targets),
        },
    )


def read_weights(path: Path, *, seed: int) -> Weights:
    """Return a model's weights from a run's checkpoint, or of one seed from a file that ships with a package.

    Raises OSError where there is no such file, ValueError where it is damaged or lacks the seed.
    """
    if path.suffix == ".pt":
        if not path.is_file():
            raise FileNotFoundError("the training of the exact model left no weights: see the row of its accuracy")
        return dict(read(path)[1]["kept"])
    with safe_open(path, framework="pt") as file:
        prefix = f"{seed}/"
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 - it is no mapping
        weights = {name.removeprefix(prefix): file.get_tensor(name).float() for name in names}
    if not weights:
        raise ValueError(f"{path.name} has no model of seed {seed}")
    return weights


def swapped_model(job: Job, task: Task, training: Training, weights: Weights) -> tuple[Model, tuple[str, ...]]:
    """Return the exact model with the mechanism in the layers to swap, and the names of its untrained weights.

    A mechanism that ties queries and keys takes the queries' projection for both.
    """
    assert job.probe.swap is not None
    model = build_model(job, task, training, seed=seed_of(job))
    _keep_exact(model, job, job.probe.swap)
    state = model.state_dict()
    fitting = {name: _fitted(weights[name], like) for name, like in state.items() if name in weights}
    untrained = tuple(name for name in state if name not in weights)
    model.load_state_dict(fitting, strict=False)
    return model, untrained


def _exact_model(job: Job, task: Task, training: Training, weights: Weights) -> Model:
    case = replace(job.case, variant="", options={})
    model = build_model(replace(job, case=case, target=TARGET), task, training, seed=seed_of(job))
    model.load_state_dict(weights)
    return model


def _fitted(weight: Tensor, like: Tensor) -> Tensor:
    """Return a weight in the shape of a model's own: of joined projections [3E, N], tied ones have no keys' third."""
    if weight.shape == like.shape:
        return weight
    queries, _, values = weight.chunk(3)
    return torch.cat((queries, values))


def _keep_exact(model: Model, job: Job, swap: Swap) -> None:
    """Put exact attention back where the swap leaves it: in layers that are not to be swapped, and for first tokens."""
    exact = variant.build(Exact, replace(job.case, variant="", options={}))
    blocks = [residual.block for residual in model.blocks if isinstance(residual.block, MultiHead)]
    for layer, block in enumerate(blocks):
        if swap.layers and layer not in swap.layers:
            block.mechanism = exact
        elif swap.exact_tokens:
            block.mechanism = _Partly(block.mechanism, exact, tokens=swap.exact_tokens)


class _Partly(nn.Module):
    """A mechanism whose first queries attend exactly."""

    def __init__(self, mechanism: Attention, exact: Attention, *, tokens: int) -> None:
        super().__init__()
        self.mechanism, self.exact, self.tokens = mechanism, exact, tokens

    def forward(self, q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor) -> Tensor:
        """Return out_BHTD."""
        rest_BHTD, exact_BHTD = (each(q_BHTD, k_BHSD, v_BHSD) for each in (self.mechanism, self.exact))
        return torch.cat((exact_BHTD[:, :, : self.tokens], rest_BHTD[:, :, self.tokens :]), dim=2)


def _tune(model: Model, batches: Batches, tuning: Training, report: Callable[[str], None]) -> None:
    optimizer = make_optimizer(model.parameters(), tuning)
    for step in range(1, tuning.steps + 1):
        loss = update(model, next(batches), tuning, optimizer=optimizer, step=step)
        report(f"step {step}/{tuning.steps}, loss {loss:.3g}")
