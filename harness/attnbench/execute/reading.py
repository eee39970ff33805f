"""The child's side of maps: matrices are read, written to the file that the parent named, and their distances told."""

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
from attnbench.train.attended import attended

Tell = Callable[[str], None]
Layer = tuple[int, Attention, Tensors]


def read(question: ReadMatrices | ReadTrained, tell: Tell) -> Reading:
    """Read matrices and write them down; whatever goes wrong is the reason why there are none.

    Raises UsageError for a layer or a head that there is not.
    """
    try:
        return _trained(question, tell) if isinstance(question, ReadTrained) else _drawn(question, tell)
    except failure.LeftOut as why:
        return Reading(reason=str(why))
    except UsageError:
        raise
    except Exception as error:
        return Reading(reason=failure.reason(error))


def _drawn(question: ReadMatrices, tell: Tell) -> Reading:
    case = question.case
    callee = Callee(case, registry.load(question.target))
    tensors = at_core(callee.draw(1)[0])
    layers = [(0, callee.attention, tensors)]
    return _read(layers, question.heads, mask=case.mask, seed=case.seed, path=question.path, tell=tell)


def _trained(question: ReadTrained, tell: Tell) -> Reading:
    job, found = attended(Path(question.checkpoint))
    layers = [(place, each.attention, (each.q_BHTD, each.k_BHTD, each.v_BHTD)) for place, each in enumerate(found)]
    chosen = [layers[place] for place in _chosen(question.layers, len(layers), "--layer", "layers")]
    mask, seed = job.case.mask, job.case.seed
    return _read(chosen, question.heads, mask=mask, seed=seed, path=question.path, tell=tell)


def _read(layers: Iterable[Layer], heads: Sequence[int], *, mask: Mask, seed: int, path: str, tell: Tell) -> Reading:
    told, matrices, exact = [], [], []
    for layer, attention, tensors in layers:
        wanted = _chosen(heads, tensors[0].shape[1], "--head", "heads")
        found = read_matrices(attention, tensors, mask=mask, heads=wanted, seed=seed, tell=tell)
        for head, matrix_TS, exact_TS in zip(wanted, *found, strict=True):
            error, variation, kept = distances(matrix_TS, exact_TS)
            told.append(HeadRead(layer=layer, head=head, error=error, variation=variation, kept=kept))
        matrices.append(found[0])
        exact.append(found[1].float())
    queries, keys = exact[0].shape[1:]
    seen_TS = visible(mask, torch.arange(queries), queries=queries, keys=keys)
    with Path(path).open("wb") as file:
        np.savez(file, matrices=torch.cat(matrices).numpy(), exact=torch.cat(exact).numpy(), visible=seen_TS.numpy())
    return Reading(heads=tuple(told))


def _chosen(asked: Sequence[int], count: int, flag: str, what: str) -> Sequence[int]:
    """Give what was asked for, or all. Raises UsageError for one that there is not."""
    if asked and max(asked) >= count:
        raise UsageError(f"{flag}: there is no {max(asked)}; there are {count} {what}, numbered from 0")
    return asked or range(count)
