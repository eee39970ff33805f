"""Effective attention matrices of single heads, exact attention's beside them, and how far the two lie apart."""

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
    tell: Callable[[str], None],
) -> Matrices:
    """Give a mechanism's effective matrix and exact attention's, both [N, T, S], of some heads of the first sequence.

    The former is in float32, the latter in float64. Raises LeftOut where the mechanism is not linear in V.
    """
    q_BHTD, k_BGSD, v_BGSD = tensors
    blocks, total = [], calls_for(v_BGSD.shape[2], v_BGSD.shape[3]) - 1
    for block_BHTC in column_blocks(attention, tensors, seed=seed):
        blocks.append(block_BHTC[0, list(heads)].float().cpu())
        tell(f"{len(blocks)} of {total} blocks of keys")
    group = q_BHTD.shape[1] // k_BGSD.shape[1]
    with torch.no_grad():
        exact = [attention_weights(q_BHTD[0, head], k_BGSD[0, head // group], mask=mask).cpu() for head in heads]
    return torch.cat(blocks, dim=-1), torch.stack(exact)


def distances(matrix_TS: torch.Tensor, exact_TS: torch.Tensor) -> tuple[float, float, float]:
    """Compare a head's matrix with exact attention's, in float64.

    Gives the relative Frobenius error; the mean over rows of the total variation distance, half the sum of absolute
    differences; and the mean share of the 16 heaviest exact weights of a row that is kept, as `weights.weigh` has it.
    """
    a_TS, e_TS = matrix_TS.double(), exact_TS.double()
    error = (a_TS - e_TS).norm() / e_TS.norm()
    variation = (a_TS - e_TS).abs().sum(-1).mean() / 2
    heaviest_TK, keys_TK = e_TS.topk(min(_HEAVIEST, e_TS.shape[1]))
    kept_TK = torch.minimum(a_TS.gather(1, keys_TK).clamp(min=0), heaviest_TK)
    return float(error), float(variation), float((kept_TK.sum(-1) / heaviest_TK.sum(-1)).mean())
