"""The Sparse Transformer's fixed attention: the own block, and the last positions of all others.

Child et al. 2019, "Generating Long Sequences with Sparse Transformers", sections 4.3 and 5.1, as one merged head:

    out_i = sum_j softmax_j(q_i . k_j / sqrt(D)) v_j   over the keys j in N(i)
    N(i) = {j <= i: floor(j / l) = floor(i / l) or j mod l >= l - c}

Blocks are of l positions, the stride; the last c positions of a block sum it up for other blocks. One softmax over both
sets, each key once. Queries are the last T positions of the keys. Time: O(N (l + c N / l) D), with the default stride
O(N^1.5 D); memory: O(N).

- Of the paper's three ways to put the two sets together (section 5.1) this is the second, a head that attends to their
  union, as in its experiment on enwik8 (stride 128, c 32); the others alternate them by layer, or share them among
  heads.
- All heads read the same summaries, as in the equation; the paper also lets heads read different parts of a block.
- `causal` keeps the paper's causal pattern where the workload has no mask, as Long Range Arena's classifiers do. (Their
  code lets every query see the first position of each block too.)
- Without causality, which the paper does not define, a query sees its whole block, and the last c positions of all
  blocks; a last block that is short has fewer of them. A single query without causality is the last position.
"""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension; X = B * H, R rows of queries, M blocks of
# keys, C = stride, U keys that sum up blocks

from collections.abc import Iterator
from typing import Annotated, ClassVar

import msgspec
import torch
from msgspec import Meta
from msgspec.structs import replace

from attnbench import Case, Support, Tune
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.flop_counts import executed_pairs
from attnbench_variants.blocks.lse_kernels import Chunks
from attnbench_variants.blocks.merging import Part
from attnbench_variants.blocks.reach import share_seen
from attnbench_variants.fixed_sparse.factorised import Factorised, Stride, StrideBlocks, hidden_as

# Rows that read the summaries of earlier blocks together: with fewer there are more products, with more a larger share
# of what is computed is hidden.
_GROUP_ROWS = 512


class SparseFixed(Factorised):
    """Fixed sparse attention, as one merged head (Child et al. 2019, sections 4.3 and 5.1)."""

    class Options(BaseOptions, frozen=True, kw_only=True):
        """The paper chooses c among 8, 16 and 32 for strides of 128 and 256."""

        stride: Stride = None
        c: Annotated[int, Meta(ge=1, description="last positions of a block, which sum it up for other blocks")] = 8
        causal: Annotated[bool, Meta(description="see no later position even where the workload has no mask")] = False

    tunes: ClassVar = {"c": Tune("1..64")}
    supports = Support(window="its blocks are its own: set stride and c instead", grouped=True, growth=1.5)

    def __init__(self, case: Case, options: Options) -> None:
        super().__init__(case, _Fixed(_masked(case, options), options))

    @staticmethod
    def reach(case: Case) -> float:
        """Return the share of the visible keys in a query's own block, and at the ends of others."""
        options = msgspec.convert(case.options, SparseFixed.Options)
        stride = StrideBlocks(case, options.stride).stride
        return share_seen(
            case,
            lambda i, j: (
                ((i // stride == j // stride) | (j % stride >= stride - options.c)) & ((j <= i) | (not options.causal))
            ),
        )

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: every pair of the parts, seen or not."""
        options = msgspec.convert(case.options, SparseFixed.Options)
        return executed_pairs(_Fixed(_masked(case, options), options).pairs(), case)


def _masked(case: Case, options: SparseFixed.Options) -> Case:
    """Return the case with the mask of the pattern."""
    return replace(case, mask=replace(case.mask, causal=case.mask.causal or options.causal))


class _Fixed:
    """Blocks separately, and rows against the summaries."""

    def __init__(self, case: Case, options: SparseFixed.Options) -> None:
        self.blocks = StrideBlocks(case, options.stride)
        self._c = min(options.c, self.blocks.stride)
        self._group = max(1, _GROUP_ROWS // self.blocks.stride)

    def parts(self, q_XRD: torch.Tensor, k_XSD: torch.Tensor, v_XSD: torch.Tensor) -> Iterator[Part]:
        """Return the blocks, then the summaries."""
        whole = Chunks(q_XRD, k_XSD, v_XSD, scale=q_XRD.shape[2] ** -0.5)
        yield from self._causal_parts(whole) if self.blocks.causal else self._full_parts(whole)

    def of_last(self, x_XSD: torch.Tensor) -> torch.Tensor:
        """Select the last block as far as it goes, and the summaries of those before it."""
        whole = (self.blocks.blocks - 1) * self.blocks.stride
        return torch.cat([self._summaries(x_XSD[:, :whole]), x_XSD[:, whole:]], dim=1)

    def pairs(self) -> int:
        """Count the pairs of a row and a key whose scores are computed."""
        blocks, stride, c = self.blocks, self.blocks.stride, self._c
        if blocks.queries == 1:
            return blocks.keys - (blocks.blocks - 1) * (stride - c)
        if blocks.causal:
            of_groups = (rows * start * c + (rows - stride) ** 2 // stride * c for start, rows in self._groups())
            return blocks.query_blocks * stride * (stride + 1) // 2 + sum(of_groups)
        rest = blocks.keys % stride
        sums = blocks.keys // stride * c + max(0, rest - (stride - c))
        own = sum(len(alike) * stride * keys for alike, keys in self._alike())
        return blocks.query_blocks * stride * sums + own

    def _summaries(self, x_XSD: torch.Tensor) -> torch.Tensor:
        """Select the last c positions of each block, where they exist: x_XUD."""
        stride = self.blocks.stride
        whole, rest = divmod(x_XSD.shape[1], stride)
        x_XMCD = x_XSD[:, : whole * stride].unflatten(1, (whole, stride))
        of_short = x_XSD[:, whole * stride + min(rest, stride - self._c) :]
        return torch.cat([x_XMCD[:, :, stride - self._c :].flatten(1, 2), of_short], dim=1)

    def _groups(self) -> Iterator[tuple[int, int]]:
        """Return the first block of each group, and its rows."""
        for start in range(self.blocks.first, self.blocks.blocks, self._group):
            yield start, min(self._group, self.blocks.blocks - start) * self.blocks.stride

    def _causal_parts(self, whole: Chunks) -> Iterator[Part]:
        """Return each block with itself, up to the row; then groups of blocks with the summaries before their rows."""
        first, stride, c = self.blocks.first, self.blocks.stride, self._c
        k_XMCD, v_XMCD = (self.blocks.filled_keys(x)[:, first:] for x in (whole.k, whole.v))
        yield Part(whole._replace(q=whole.q.unflatten(1, (-1, stride)), k=k_XMCD, v=v_XMCD, causal=True))
        k, v = (self._summaries(x[:, : (self.blocks.blocks - 1) * stride])[:, None] for x in (whole.k, whole.v))
        for (start, rows), q_XRD in zip(self._groups(), whole.q.split(self._group * stride, dim=1), strict=True):
            q, at = q_XRD[:, None], (start - first) * stride
            before, within = slice(start * c), slice(start * c, start * c + (rows // stride - 1) * c)
            if start:
                yield Part(whole._replace(q=q, k=k[:, :, before], v=v[:, :, before]), slice(at, at + rows))
            if rows > stride:
                later = whole._replace(q=q[:, :, stride:], k=k[:, :, within], v=v[:, :, within])
                yield Part(later._replace(mask=self._earlier(later)), slice(at + stride, at + rows))

    def _earlier(self, of_group: Chunks) -> torch.Tensor:
        """Hide, from each row of a group without its first block, the summaries of its own block and later ones."""
        row_R1 = torch.arange(of_group.q.shape[2], device=of_group.q.device)[:, None] // self.blocks.stride
        key_U = torch.arange(of_group.k.shape[2], device=of_group.q.device) // self._c
        return hidden_as(of_group.q.dtype, key_U <= row_R1)[None, None]

    def _alike(self) -> Iterator[tuple[range, int]]:
        """Group the blocks with queries by their number of positions that are no summary, if any: blocks, number."""
        blocks, most = self.blocks, self.blocks.stride - self._c
        short = min(most, blocks.keys - (blocks.blocks - 1) * blocks.stride)
        full = range(blocks.first, blocks.blocks - (short < most))
        last = range(full.stop, blocks.blocks)
        return ((alike, keys) for alike, keys in ((full, most), (last, short)) if alike and keys)

    def _full_parts(self, whole: Chunks) -> Iterator[Part]:
        """Return all rows with all summaries; then each block with its other positions."""
        first, stride = self.blocks.first, self.blocks.stride
        k_XUD, v_XUD = self._summaries(whole.k), self._summaries(whole.v)
        if k_XUD.shape[1]:
            yield Part(whole._replace(q=whole.q[:, None], k=k_XUD[:, None], v=v_XUD[:, None]))
        for alike, keys in self._alike():
            rows = slice((alike.start - first) * stride, (alike.stop - first) * stride)
            k, v = (self.blocks.filled_keys(x)[:, alike.start : alike.stop, :keys] for x in (whole.k, whole.v))
            q = whole.q[:, rows].unflatten(1, (-1, stride))
            yield Part(whole._replace(q=q, k=k, v=v), rows)
