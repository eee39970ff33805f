"""Sinkhorn's iterations in logarithms: rows and columns made to sum to one in turn, until nearly a permutation is left.

X matrices of M rows (what is moved) and M columns (where to).
"""

import torch
from torch import Tensor


def balanced(scores_XMM: Tensor, *, iterations: int) -> Tensor:
    """Give the logarithm of exp(scores) with rows, then columns divided by their sums, so many times."""
    for _ in range(iterations):
        scores_XMM = scores_XMM - scores_XMM.logsumexp(dim=2, keepdim=True)
        scores_XMM = scores_XMM - scores_XMM.logsumexp(dim=1, keepdim=True)
    return scores_XMM


def causally_balanced(scores_XMM: Tensor, *, iterations: int) -> Tensor:
    """Give the same where a row may only be moved to later columns: nothing in a column depends on rows from it on.

    A row's sums run up to each column. What is hidden is far below all else, and stays finite.
    """
    hidden_MM = torch.ones_like(scores_XMM[0], dtype=torch.bool).tril()
    low = torch.finfo(scores_XMM.dtype).min / 4
    scores_XMM = scores_XMM.masked_fill(hidden_MM, low)
    for _ in range(iterations):
        scores_XMM = (scores_XMM - scores_XMM.logcumsumexp(dim=2)).masked_fill(hidden_MM, low)
        scores_XMM = (scores_XMM - scores_XMM.logsumexp(dim=1, keepdim=True)).masked_fill(hidden_MM, low)
    return scores_XMM
