"""The dtype of sums: float32, or float64 where inputs are."""

import torch


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return float32, or the dtype itself if that is wider."""
    return torch.promote_types(dtype, torch.float32)


def wide(x: torch.Tensor) -> torch.Tensor:
    """Return x in float32 or wider."""
    return x.to(wide_dtype(x.dtype))
