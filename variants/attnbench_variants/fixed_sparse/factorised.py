"""The Sparse Transformer's factorised patterns: a stride near the root of the length, and blocks of a stride."""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension; X = B * H, R rows of queries filled up to
# whole blocks, M blocks of keys, C = stride

import math
from collections.abc import Iterator
from typing import Annotated, Protocol

import torch
from msgspec import Meta
from torch.nn.functional import pad

from attnbench import Case
from attnbench_variants.blocks.fused_kernels import Fused
from attnbench_variants.blocks.grouped_heads import per_query_head
from attnbench_variants.blocks.lse_kernels import kernel_for, masked
from attnbench_variants.blocks.masks import require_queries_last
from attnbench_variants.blocks.merging import Part, attend_in_parts

Stride = Annotated[
    Annotated[int, Meta(ge=1)] | None,
    Meta(description="positions of a stride; none: the root of the number of keys, rounded up to a multiple of 32"),
]


class StrideBlocks:
    """Blocks of `stride` positions. Queries are the last T positions; `first` is the block of the first of them."""

    def __init__(self, case: Case, stride: int | None) -> None:
        require_queries_last(case)
        self.causal = case.mask.causal
        self.queries, self.keys = case.shape.seq_q, case.shape.seq_k
        self.stride = min(self.keys, stride or 32 * math.ceil(math.sqrt(self.keys) / 32))
        self.blocks = -(-self.keys // self.stride)
        self.first, self.lead = divmod(self.keys - self.queries, self.stride)
        self.query_blocks = self.blocks - self.first

    def filled_queries(self, q_XTD: torch.Tensor) -> torch.Tensor:
        """Fill up the first and the last block: q_XRD."""
        rows = self.query_blocks * self.stride
        return pad(q_XTD, (0, 0, self.lead, rows - self.lead - self.queries))

    def filled_keys(self, x_XSD: torch.Tensor) -> torch.Tensor:
        """Fill up the last block, and cut into blocks: x_XMCD."""
        filled_XSD = pad(x_XSD, (0, 0, 0, self.blocks * self.stride - self.keys))
        return filled_XSD.view(-1, self.blocks, self.stride, x_XSD.shape[2])


class FactorisedPattern(Protocol):
    """A pattern as parts of one softmax, each key of a query in one of them."""

    blocks: StrideBlocks

    def parts(self, q_XRD: torch.Tensor, k_XSD: torch.Tensor, v_XSD: torch.Tensor) -> Iterator[Part]:
        """Return the parts, whose rows are those of the filled queries."""
        ...

    def of_last(self, x_XSD: torch.Tensor) -> torch.Tensor:
        """Select the keys that the last position sees: x_XLD."""
        ...

    def pairs(self) -> int:
        """Count the pairs of a row and a key whose scores are computed."""
        ...


class Factorised:
    """Attention by a factorised pattern. A single query attends to the keys that it sees, without blocks."""

    def __init__(self, case: Case, pattern: FactorisedPattern) -> None:
        self._pattern, self._kernel = pattern, kernel_for(torch.device(case.device))
        self._fused = Fused(case) if case.shape.seq_q == 1 else None
        self.name = self._fused.name if self._fused else self._kernel.name

    def __call__(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        if self._fused:
            k_BGLD, v_BGLD = (
                self._pattern.of_last(x.flatten(0, 1)).unflatten(0, x.shape[:2]) for x in (k_BGSD, v_BGSD)
            )
            return self._fused(q_BHTD, k_BGLD, v_BGLD)
        heads, blocks = q_BHTD.shape[1], self._pattern.blocks
        q_XTD, k_XSD, v_XSD = (per_query_head(x, heads).flatten(0, 1).contiguous() for x in (q_BHTD, k_BGSD, v_BGSD))
        q_XRD = blocks.filled_queries(q_XTD)
        parts = list(self._pattern.parts(q_XRD, k_XSD, v_XSD))
        out_XRD = attend_in_parts(parts, queries=q_XRD.shape[1], kernel=self._kernel)
        return out_XRD[:, blocks.lead : blocks.lead + blocks.queries].view(q_BHTD.shape)


def hidden_as(dtype: torch.dtype, seen: torch.Tensor) -> torch.Tensor:
    """Return the mask to add to scores: zero where a key is seen, finite and too low for any weight elsewhere."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, masked(dtype))
