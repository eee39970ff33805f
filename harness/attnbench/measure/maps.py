"""Effective attention matrices of single heads, exact attention's matrices, and the distances between them."""

# B batch, H heads, G key/value heads, T queries, S keys, C columns of a block, N chosen heads, D head dimension
from collections.abc import Callable, Sequence

import torch

from attnbench.contracts.case import Mask
from attnbench.contracts.variant import Attention
from attnbench.measure.effective import Tensors, calls_for, column_blocks
from attnbench.measure.reference import attention_weights

_HEAVIEST = 16

Matrices = tuple[torch.Tensor, torch.Tensor]


def read_matrices(
    attention: Attention,
    tensors: Tensors,
    *,
    mask: Mask,
    heads: Sequence[int],
    seed: int,
    report: Callable[[str], None],
) -> Matrices:
    """Return the effective and the exact attention matrices of some heads of the first sequence, both [N, T, S].

    The former are in float32, the latter in float64. Raises LeftOut if the mechanism is not linear in V.
    """
    q_BHTD, k_BGSD, v_BGSD = tensors
    blocks, total = [], calls_for(v_BGSD.shape[2], v_BGSD.shape[3]) - 1
    for block_BHTC in column_blocks(attention, tensors, seed=seed):
        blocks.append(block_BHTC[0, list(heads)].float().cpu())
        report(f"{len(blocks)} of {total} blocks of keys")
    group = q_BHTD.shape[1] // k_BGSD.shape[1]
    with torch.no_grad():
        exact = [attention_weights(q_BHTD[0, head], k_BGSD[0, head // group], mask=mask).cpu() for head in heads]
    return torch.cat(blocks, dim=-1), torch.stack(exact)


def distances(matrix_TS: torch.Tensor, exact_TS: torch.Tensor) -> tuple[float, float, float]:
    """Return a head's distances from exact attention, in float64: error, variation and kept mass.

    The error is the relative Frobenius error; the variation is the mean over rows of the total variation distance, half
    the sum of absolute differences; the kept mass is that of the 16 heaviest keys of a row, as in `weights.weigh`.
    """
    a_TS, e_TS = matrix_TS.double(), exact_TS.double()
    error = (a_TS - e_TS).norm() / e_TS.norm()
    variation = (a_TS - e_TS).abs().sum(-1).mean() / 2
    heaviest_TK, keys_TK = e_TS.topk(min(_HEAVIEST, e_TS.shape[1]))
    kept_TK = torch.minimum(a_TS.gather(1, keys_TK).clamp(min=0), heaviest_TK)
    return float(error), float(variation), float((kept_TK.sum(-1) / heaviest_TK.sum(-1)).mean())
