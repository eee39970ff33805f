"""The child's side of maps: read effective attention matrices and write them to the file that the parent named."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from attnbench.contracts.case import Mask
from attnbench.contracts.errors import UsageError
from attnbench.contracts.variant import Attention
from attnbench.execute.messages import HeadRead, Reading, ReadMatrices, ReadTrained
from attnbench.measure import failure
from attnbench.measure.callee import Callee
from attnbench.measure.effective import Tensors, at_core
from attnbench.measure.maps import distances, read_matrices
from attnbench.measure.reference import visible
from attnbench.plugins import registry
from attnbench.train.capture import capture

Report = Callable[[str], None]
Question = ReadMatrices | ReadTrained
Layer = tuple[int, Attention, Tensors]


def read(question: Question, report: Report) -> Reading:
    """Read matrices and write them to `question.path`; what prevents that is the reading's reason.

    Raises UsageError for a layer or a head that does not exist.
    """
    try:
        if isinstance(question, ReadTrained):
            return _read_trained(question, report)
        return _read_drawn(question, report)
    except failure.LeftOut as why:
        return Reading(reason=str(why))
    except UsageError:
        raise
    except Exception as error:
        return Reading(reason=failure.reason(error))


def _read_drawn(question: ReadMatrices, report: Report) -> Reading:
    case = question.case
    callee = Callee(case, registry.load(question.target))
    layers = [(0, callee.attention, at_core(callee.draw(1, path=question.inputs_path)[0]))]
    return _read(layers, question, mask=case.mask, seed=case.seed, report=report)


def _read_trained(question: ReadTrained, report: Report) -> Reading:
    job, captured = capture(Path(question.checkpoint))
    layers = [
        (number, captured[number].attention, captured[number].tensors)
        for number in _chosen(question.layers, len(captured), "--layer", "layers")
    ]
    return _read(layers, question, mask=job.case.mask, seed=job.case.seed, report=report)


def _read(layers: Iterable[Layer], question: Question, *, mask: Mask, seed: int, report: Report) -> Reading:
    read_heads, matrices, exact = [], [], []
    for layer, attention, tensors in layers:
        chosen = _chosen(question.heads, tensors[0].shape[1], "--head", "heads")
        pair = read_matrices(attention, tensors, mask=mask, heads=chosen, seed=seed, report=report)
        for head, matrix_TS, exact_TS in zip(chosen, *pair, strict=True):
            error, variation, kept = distances(matrix_TS, exact_TS)
            read_heads.append(HeadRead(layer=layer, head=head, error=error, variation=variation, kept=kept))
        matrices.append(pair[0])
        exact.append(pair[1].float())
    queries, keys = exact[0].shape[1:]
    visible_TS = visible(mask, torch.arange(queries), queries=queries, keys=keys)
    with Path(question.path).open("wb") as file:
        np.savez(file, matrices=torch.cat(matrices).numpy(), exact=torch.cat(exact).numpy(), visible=visible_TS.numpy())
    return Reading(heads=tuple(read_heads))


def _chosen(numbers: Sequence[int], count: int, flag: str, what: str) -> Sequence[int]:
    """Return the chosen numbers, or all. Raises UsageError for one that does not exist."""
    if numbers and max(numbers) >= count:
        raise UsageError(f"{flag}: there is no {max(numbers)}; there are {count} {what}, numbered from 0")
    return numbers or range(count)
