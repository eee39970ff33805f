"""The share of the visible keys that a query sees: of a pattern of positions, and of keys that are found by chance."""
# R rows of queries, S keys

from collections.abc import Callable

import torch

from attnbench import Case

Seen = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (i_R1, j_S) -> bool [R, S], by positions
_ROWS = 256
_ENTRIES = 2**20  # of a pattern at once, so that a million keys take no gigabytes


def share_seen(case: Case, seen: Seen, *, further: float | Callable[[torch.Tensor], torch.Tensor] = 0) -> float:
    """Return the mean over queries of the share of the visible keys that a pattern shows them.

    Queries are the last T positions; of more than 256, those in the middle of 256 equal parts stand for all. `further`
    counts keys that a query sees besides the pattern's, wherever they are, or the pools of keys: a number, or by i_R1,
    [R, 1].
    """
    shape = case.shape
    rows = min(shape.seq_q, _ROWS)
    i_R1 = shape.seq_k - shape.seq_q + ((torch.arange(rows)[:, None] * 2 + 1) * shape.seq_q) // (2 * rows)
    j_S = torch.arange(shape.seq_k)
    visible_R1 = i_R1 + 1 if case.mask.causal else torch.full_like(i_R1, shape.seq_k)
    parts = (x.split(max(1, _ENTRIES // shape.seq_k)) for x in (i_R1, visible_R1))
    seen_R1 = torch.cat(
        [(seen(i_R1, j_S) & (j_S < upto_R1)).sum(1, keepdim=True) for i_R1, upto_R1 in zip(*parts, strict=True)]
    )
    seen_R1 = seen_R1 + (further(i_R1) if callable(further) else further)
    return float((seen_R1 / visible_R1).clamp(max=1).mean())


def all_keys(case: Case) -> float:
    """Return 1.0, the reach of a mechanism that weighs every visible key in its own way, at every length alike."""
    del case
    return 1.0


def share_found(share: float, rounds: int) -> float:
    """Return the expected share of the keys that at least one of independent rounds shows, each of which shows a share.

    Rounds that hash the same vectors find some keys again and again, so that this is an upper end.
    """
    return 1 - (1 - min(1.0, share)) ** rounds
