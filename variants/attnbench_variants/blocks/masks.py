"""The keys that a query sees in exact attention: as a dense mask, and as a count."""
# T queries, S keys

import torch

from attnbench import Case, Mask, Unsupported


def visible_keys(
    mask: Mask, *, queries: int, keys: int, device: torch.device | str, rows: slice = slice(None)
) -> torch.Tensor | None:
    """Mark the keys that each query sees, [T, S]; None where every query sees them all. `rows`: for these queries only.

    Queries are the last T positions of the keys. A window of w reaches the last w keys, the query's own included;
    without causality also the next w - 1, so that a key is seen if |i - j| < w.
    """
    if not mask.causal and mask.window is None:
        return None
    i_T1 = torch.arange(keys - queries, keys, device=device)[rows, None]
    j_S = torch.arange(keys, device=device)
    visible_TS = j_S <= i_T1 if mask.causal else j_S < i_T1 + (mask.window or keys)
    return visible_TS if mask.window is None else visible_TS.logical_and_(j_S > i_T1 - mask.window)


def visible_pairs(mask: Mask, *, queries: int, keys: int) -> int:
    """Count the pairs of a query and a key that it sees."""
    if not mask.causal and mask.window is None:
        return queries * keys
    reach = mask.window or keys
    up_to_own = _capped_sum(keys, reach) - _capped_sum(keys - queries, reach)
    return up_to_own if mask.causal else up_to_own + _capped_sum(queries - 1, reach - 1)


def require_queries_last(case: Case) -> None:
    """Refuse more queries than keys where a mechanism aligns them at the end. Raises Unsupported."""
    if case.shape.seq_q > case.shape.seq_k:
        raise Unsupported("its queries are the last positions of the keys: there cannot be more of them than keys")


def _capped_sum(length: int, limit: int) -> int:
    """Sum min(i, limit) for i from 1 to length."""
    rising = min(length, limit)
    return rising * (rising + 1) // 2 + (length - rising) * limit
