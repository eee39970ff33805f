"""Sinkhorn balancing in logarithms: rows and columns are made to sum to one in turn, towards a permutation."""
# X matrices of M rows (the blocks that are moved) and M columns (the places that they are moved to)

import torch
from torch import Tensor


def balanced(scores_XMM: Tensor, *, iterations: int) -> Tensor:
    """Return the logarithm of exp(scores) with rows, then columns divided by their sums, so many times."""
    for _ in range(iterations):
        scores_XMM = scores_XMM - scores_XMM.logsumexp(dim=2, keepdim=True)
        scores_XMM = scores_XMM - scores_XMM.logsumexp(dim=1, keepdim=True)
    return scores_XMM


def causally_balanced(scores_XMM: Tensor, *, iterations: int) -> Tensor:
    """Return the same for blocks that may move to later places only: no column depends on the rows from its own on.

    A row's sums run up to each column. What is hidden is far below all else, and stays finite.
    """
    hidden_MM, low = _hidden(scores_XMM)
    scores_XMM = scores_XMM.masked_fill(hidden_MM, low)
    for _ in range(iterations):
        scores_XMM = (scores_XMM - scores_XMM.logcumsumexp(dim=2)).masked_fill(hidden_MM, low)
        scores_XMM = (scores_XMM - scores_XMM.logsumexp(dim=1, keepdim=True)).masked_fill(hidden_MM, low)
    return scores_XMM


def rows_balanced(scores_XMM: Tensor, *, causal: bool) -> Tensor:
    """Return the logarithm of exp(scores) with rows divided by their sums; causally over later places only."""
    if not causal:
        return scores_XMM.log_softmax(dim=2)
    hidden_MM, low = _hidden(scores_XMM)
    return scores_XMM.masked_fill(hidden_MM, low).log_softmax(dim=2).masked_fill(hidden_MM, low)


def _hidden(scores_XMM: Tensor) -> tuple[Tensor, float]:
    """Return where a block may not move, as it is not earlier than the place, and what stands there: low but finite."""
    return torch.ones_like(scores_XMM[0], dtype=torch.bool).tril(), torch.finfo(scores_XMM.dtype).min / 4
