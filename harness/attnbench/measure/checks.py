"""Checks of an attention output, and a checksum that detects a changed or a repeated tensor."""

import math

import torch

from attnbench.contracts.variant import InvalidOutput

_ROW_WEIGHT, _COLUMN_WEIGHT = 0x1E3779B97F4A7C15, 0x3F58476D1CE4E5B9  # odd: a product modulo 2^64 loses no bit


def checksum(*tensors: torch.Tensor) -> int:
    """Return a checksum of tensors: their bits summed as integers, weighted by row and by column."""
    return sum(_weighted_bits(tensor) for tensor in tensors)


def output_like(out: object, queries: torch.Tensor) -> torch.Tensor:
    """Return `out` if it has the shape, dtype and device of the queries (or tokens). Raises InvalidOutput otherwise."""
    if type(out) is not torch.Tensor:  # a subclass may compute when it is looked at
        raise InvalidOutput(f"the output is a {type(out).__name__}, not a plain tensor")
    what = "queries" if queries.dim() == 4 else "tokens"
    if out.shape != queries.shape:
        raise InvalidOutput(f"the output has shape {list(out.shape)}, the {what} {list(queries.shape)}")
    if out.dtype != queries.dtype:
        raise InvalidOutput(f"the output is {out.dtype}, the {what} are {queries.dtype}")
    if out.device != queries.device:
        raise InvalidOutput(f"the output is on {out.device}, the {what} are on {queries.device}")
    return out


def finite(out: torch.Tensor) -> torch.Tensor:
    """Return `out` if it has neither NaN nor infinities. Raises InvalidOutput otherwise."""
    wrong = out.numel() - int(torch.isfinite(out).sum())
    if wrong:
        raise InvalidOutput(f"{wrong} of {out.numel()} output values are NaN or infinite")
    return out


def _weighted_bits(tensor: torch.Tensor) -> int:
    if not tensor.numel():
        return 0
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    rows = tensor.detach().contiguous()
    rows = rows if rows.dim() > 1 else rows.view(1, -1)
    size = rows.element_size()
    # Where a row's length allows it, several values are read as one wide integer: fewer to sum, and none to widen.
    width = math.gcd(8, rows.shape[-1] * size)
    aligned = rows.storage_offset() * size % width == 0
    bits_RD = (rows if aligned else rows.clone()).view(integers[width]).flatten(0, -2)
    rows_R, columns_D = bits_RD.sum(1, dtype=torch.int64), bits_RD.sum(0, dtype=torch.int64)
    sums = ((rows_R, _ROW_WEIGHT), (columns_D, _COLUMN_WEIGHT))
    return sum(int((part * (torch.arange(len(part), device=part.device) * odd + 1)).sum()) for part, odd in sums)
