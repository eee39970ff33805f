"""Grouped heads: a key or value head serves several query heads."""
# B batch, H heads, G key/value heads, S keys, D head dimension

import torch


def per_query_head(x_BGSD: torch.Tensor, heads: int) -> torch.Tensor:
    """Repeat a group's keys (or values) for each of its query heads: x_BHSD, the tensor itself if none is shared."""
    groups = x_BGSD.shape[1]
    return x_BGSD if groups == heads else x_BGSD.repeat_interleave(heads // groups, dim=1)
