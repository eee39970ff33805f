"""Exact attention, plainly: the formula that every mechanism is held against, in the dtype of its inputs."""

# B batch, H heads, G key/value heads, T queries, S keys, R chosen query rows, D head dimension
import math

import torch

from attnbench.case import Mask

_ALL_ROWS_UP_TO = 2048
_ROWS = 256


def exact_attention(
    q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor, *, mask: Mask, rows_R: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute softmax(q k^T / sqrt(D)) v (Vaswani et al. 2017, equation 1) for the chosen query rows, all by default.

    Gives out_BHRD. A head at a time, so that memory grows with R x S and not with heads and batch.
    """
    batch, heads, queries, width = q_BHTD.shape
    group = heads // k_BGSD.shape[1]
    rows = torch.arange(queries, device=q_BHTD.device) if rows_R is None else rows_R
    hidden_RS = ~visible(mask, rows, queries=queries, keys=k_BGSD.shape[2])
    outs = []
    for b in range(batch):
        for h in range(heads):
            scores_RS = q_BHTD[b, h, rows] @ k_BGSD[b, h // group].T / math.sqrt(width)
            weights_RS = scores_RS.masked_fill(hidden_RS, -math.inf).softmax(-1)
            outs.append(weights_RS @ v_BGSD[b, h // group])
    return torch.stack(outs).view(batch, heads, len(rows), -1)


def visible(mask: Mask, rows_R: torch.Tensor, *, queries: int, keys: int) -> torch.Tensor:
    """Tell which keys each query row may see: a boolean [R, S], aligned at the end where T and S differ.

    A window of w reaches w keys back, the query's own included; without causality it reaches as far ahead.
    """
    position_R1 = rows_R[:, None] + (keys - queries)
    key_S = torch.arange(keys, device=rows_R.device)
    seen_RS = torch.ones(len(rows_R), keys, dtype=torch.bool, device=rows_R.device)
    if mask.causal:
        seen_RS &= key_S <= position_R1
    if mask.window is not None:
        seen_RS &= (key_S - position_R1).abs() < mask.window
    return seen_RS


def chosen_rows(queries: int, *, seed: int, device: torch.device) -> torch.Tensor:
    """Choose the query rows on which agreement is taken: all up to 2048 queries, else 256 drawn from the seed."""
    if queries <= _ALL_ROWS_UP_TO:
        return torch.arange(queries, device=device)
    drawn = torch.randperm(queries, generator=torch.Generator().manual_seed(seed))[:_ROWS]
    return drawn.sort().values.to(device)
