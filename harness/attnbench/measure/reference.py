"""Exact attention by its formula, in the dtype of its inputs: the reference of every mechanism."""

# B batch, H heads, G key/value heads, T queries, S keys, R chosen query rows, D head dimension
import math

import torch

from attnbench.contracts.case import Mask, seed_for
from attnbench.measure.inputs import Inputs

_ALL_ROWS_UP_TO = 2048
_ROWS = 256
_EDGES, _BLOCK = 32, 64  # edges of blocks on whose sides rows are chosen, and the rows that blocks are multiples of


def exact_attention(
    q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor, *, mask: Mask, rows_R: torch.Tensor | None = None
) -> torch.Tensor:
    """Return softmax(q k^T / sqrt(D)) v (Vaswani et al. 2017, equation 1), out_BHRD, for the chosen query rows.

    The default is all rows. One head at a time, so that memory grows with R x S and not with heads and batch.
    """
    batch, heads, queries, _ = q_BHTD.shape
    group = heads // k_BGSD.shape[1]
    rows = torch.arange(queries, device=q_BHTD.device) if rows_R is None else rows_R
    hidden_RS = ~visible(mask, rows, queries=queries, keys=k_BGSD.shape[2])
    outs = [
        _one_head(q_BHTD[b, h, rows], k_BGSD[b, h // group], v_BGSD[b, h // group], hidden_RS=hidden_RS)
        for b in range(batch)
        for h in range(heads)
    ]
    return torch.stack(outs).view(batch, heads, len(rows), -1)


def exact_gradients(inputs: Inputs, *, mask: Mask, rows_R: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return (dq, dk, dv) of exact attention on the chosen query rows, or (dq, dv) for tied queries and keys.

    Row i of the cotangent belongs to the i-th chosen row. One head at a time, so that only one graph is held.
    """
    q_BHTD, k_BGSD, v_BGSD = (tensor.detach() for tensor in inputs.tensors)
    batch, heads, queries, _ = q_BHTD.shape
    group = heads // k_BGSD.shape[1]
    hidden_RS = ~visible(mask, rows_R, queries=queries, keys=k_BGSD.shape[2])
    dq, dk, dv = (torch.zeros_like(tensor) for tensor in (q_BHTD, k_BGSD, v_BGSD))
    for b in range(batch):
        for h in range(heads):
            g = h // group
            leaves = [x.clone().requires_grad_() for x in (q_BHTD[b, h, rows_R], k_BGSD[b, g], v_BGSD[b, g])]
            with torch.enable_grad():
                out_RD = _one_head(*leaves, hidden_RS=hidden_RS)
            dq_RD, dk_SD, dv_SD = torch.autograd.grad(out_RD, leaves, inputs.cotangent[b, h, : len(rows_R)])
            dq[b, h, rows_R] += dq_RD
            dk[b, g] += dk_SD
            dv[b, g] += dv_SD
    return (dq + dk, dv) if inputs.tied else (dq, dk, dv)


def heaviest_keys(
    q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, *, mask: Mask, rows_R: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weights and indices of the keys that exact attention weighs most on the chosen rows.

    Both are [B, H, R, K] with K = min(count, S), weights in float64; a hidden key has weight 0. One head at a time.
    """
    batch, heads, queries, _ = q_BHTD.shape
    group, keys = heads // k_BGSD.shape[1], k_BGSD.shape[2]
    hidden_RS = ~visible(mask, rows_R, queries=queries, keys=keys)
    with torch.no_grad():
        tops = [
            _weights(q_BHTD[b, h, rows_R].double(), k_BGSD[b, h // group].double(), hidden_RS).topk(min(count, keys))
            for b in range(batch)
            for h in range(heads)
        ]
    size = (batch, heads, len(rows_R), -1)
    return torch.stack([top.values for top in tops]).view(size), torch.stack([top.indices for top in tops]).view(size)


def attention_weights(q_TD: torch.Tensor, k_SD: torch.Tensor, *, mask: Mask) -> torch.Tensor:
    """Return the matrix of exact attention for one head, [T, S], in float64."""
    queries, keys = len(q_TD), len(k_SD)
    rows_T = torch.arange(queries, device=q_TD.device)
    return _weights(q_TD.double(), k_SD.double(), ~visible(mask, rows_T, queries=queries, keys=keys))


def _one_head(q_RD: torch.Tensor, k_SD: torch.Tensor, v_SD: torch.Tensor, *, hidden_RS: torch.Tensor) -> torch.Tensor:
    return _weights(q_RD, k_SD, hidden_RS) @ v_SD


def _weights(q_RD: torch.Tensor, k_SD: torch.Tensor, hidden_RS: torch.Tensor) -> torch.Tensor:
    scores_RS = q_RD @ k_SD.T / math.sqrt(q_RD.shape[-1])
    return scores_RS.masked_fill(hidden_RS, -math.inf).softmax(-1)


def visible(mask: Mask, rows_R: torch.Tensor, *, queries: int, keys: int) -> torch.Tensor:
    """Return which keys each query row may see: a boolean [R, S], aligned at the end where T and S differ.

    A window of w contains the query's own key and the w - 1 before it; without causality as many after it, too.
    """
    position_R1 = rows_R[:, None] + (keys - queries)
    key_S = torch.arange(keys, device=rows_R.device)
    visible_RS = torch.ones(len(rows_R), keys, dtype=torch.bool, device=rows_R.device)
    if mask.causal:
        visible_RS &= key_S <= position_R1
    if mask.window is not None:
        visible_RS &= (key_S - position_R1).abs() < mask.window
    return visible_RS


def chosen_rows(queries: int, *, seed: int, device: torch.device, all_up_to: int = _ALL_ROWS_UP_TO) -> torch.Tensor:
    """Return the query rows on which agreement is measured: all up to 2048 queries, else 256.

    These are the first and the last, both sides of 32 edges of blocks, and for the rest some that the seed draws.
    """
    if queries <= all_up_to:
        return torch.arange(queries, device=device)
    edges = torch.arange(_BLOCK, queries, max(1, queries // _EDGES // _BLOCK) * _BLOCK)
    fixed = torch.cat((torch.tensor([0, queries - 1]), edges - 1, edges)).unique()
    drawn = torch.randperm(queries, generator=torch.Generator().manual_seed(seed_for(seed, "rows")))
    rows = torch.cat((fixed, drawn[~torch.isin(drawn, fixed)]))[:_ROWS]
    return rows.sort().values.to(device)
