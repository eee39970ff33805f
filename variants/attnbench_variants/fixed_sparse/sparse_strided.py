"""The Sparse Transformer's strided attention: the last positions, and every so many before.

Child et al. 2019, "Generating Long Sequences with Sparse Transformers", sections 4.3 and 5.1, as one merged head:

    out_i = sum_j softmax_j(q_i . k_j / sqrt(D)) v_j   over the keys j in N(i)
    N(i) = {j <= i: i - j <= l or (i - j) mod l = 0}                                            l the stride

One softmax over both sets, each key once. Queries are the last T positions of the keys. Time: O(N (l + N / l) D), with
the default stride O(N^1.5 D); memory: O(N).

- Of the paper's three ways to put the two sets together (section 5.1) this is the second, a head that attends to their
  union, as in its experiment on enwik8; the others alternate them by layer, or share them among heads.
- Without causality, which the paper does not define, both sets reach to either side: |i - j| <= l, or (i - j) mod l =
  0. A single query without causality is the last position.
"""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension; X = B * H, R rows of queries, N blocks of
# them, M blocks of keys, C = stride, W positions around a block

from collections.abc import Iterator

import msgspec
import torch

from attnbench import Case, Support
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.flop_counts import executed_pairs
from attnbench_variants.blocks.lse_kernels import Chunks
from attnbench_variants.blocks.merging import Part
from attnbench_variants.blocks.reach import share_seen
from attnbench_variants.fixed_sparse.factorised import Factorised, Stride, StrideBlocks, hidden_as


class SparseStrided(Factorised):
    """Strided sparse attention, as one merged head (Child et al. 2019, sections 4.3 and 5.1)."""

    class Options(BaseOptions, frozen=True, kw_only=True):
        """The paper chooses the stride close to the root of the length: 128 at most of its 3072 to 12288 positions."""

        stride: Stride = None

    supports = Support(window="its window is its own: set stride instead", grouped=True, growth=1.25)

    def __init__(self, case: Case, options: Options) -> None:
        super().__init__(case, _Strided(case, options.stride))

    @staticmethod
    def reach(case: Case) -> float:
        """Return the share of the visible keys less than a stride away, or whole strides."""
        stride = StrideBlocks(case, msgspec.convert(case.options, SparseStrided.Options).stride).stride
        return share_seen(case, lambda i, j: ((i - j).abs() <= stride) | ((i - j) % stride == 0))

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: every pair of the parts, seen or not."""
        stride = msgspec.convert(case.options, SparseStrided.Options).stride
        return executed_pairs(_Strided(case, stride).pairs(), case)


class _Strided:
    """Windows around blocks, and columns of positions that a stride divides the distance of."""

    def __init__(self, case: Case, stride: int | None) -> None:
        self.blocks = StrideBlocks(case, stride)
        self._reach = 1 if self.blocks.causal else 2  # blocks from a row's own on
        # Blocks whose window is cut off neither at the first key nor at the last are alike; others stand alone.
        first, last = max(1, self.blocks.first), self.blocks.keys // self.blocks.stride - self._reach
        inner = range(first, max(first, last + 1))
        outer = (b for b in range(self.blocks.first, self.blocks.blocks) if b not in inner)
        self._alike = [*([inner] if inner else []), *(range(b, b + 1) for b in outer)]

    def parts(self, q_XRD: torch.Tensor, k_XSD: torch.Tensor, v_XSD: torch.Tensor) -> Iterator[Part]:
        """Return the windows, then the columns."""
        scale = q_XRD.shape[2] ** -0.5
        yield from self._windows(Chunks(q_XRD, k_XSD, v_XSD, scale=scale))
        filled = (q_XRD.unflatten(1, (-1, self.blocks.stride)), *map(self.blocks.filled_keys, (k_XSD, v_XSD)))
        q, k, v = (x.transpose(1, 2) for x in filled)
        columns = Chunks(q, k, v, scale=scale)
        yield from self._causal_columns(columns) if self.blocks.causal else self._full_columns(columns)

    def of_last(self, x_XSD: torch.Tensor) -> torch.Tensor:
        """Select the window that ends with the last position, and the positions whole strides before it."""
        keys, stride = self.blocks.keys, self.blocks.stride
        return torch.cat([x_XSD[:, (keys - 1) % stride : keys - stride : stride], x_XSD[:, keys - stride :]], dim=1)

    def pairs(self) -> int:
        """Count the pairs of a row and a key whose scores are computed."""
        blocks, stride = self.blocks, self.blocks.stride
        if blocks.queries == 1:
            return stride + len(range((blocks.keys - 1) % stride, blocks.keys - stride, stride))
        seen = [self._window(alike) for alike in self._alike]
        windows = sum(
            len(alike) * stride * (stop - start) for alike, (start, stop) in zip(self._alike, seen, strict=True)
        )
        if not blocks.causal:
            return windows + stride * blocks.query_blocks * blocks.blocks
        later = blocks.query_blocks - 1
        return windows + stride * (blocks.query_blocks * blocks.first + later * (later + 1) // 2)

    def _window(self, alike: range) -> tuple[int, int]:
        """Return the start and the stop of the first block's window."""
        stride = self.blocks.stride
        return max(0, (alike[0] - 1) * stride), min(self.blocks.keys, (alike[0] + self._reach) * stride)

    def _windows(self, whole: Chunks) -> Iterator[Part]:
        """Return rows with the positions less than a stride away; without causality their own is in the columns."""
        first, stride = self.blocks.first, self.blocks.stride
        for alike in self._alike:
            start, stop = self._window(alike)
            own_C1 = torch.arange(stride, device=whole.q.device)[:, None] + alike[0] * stride
            distance_CW = own_C1 - torch.arange(start, stop, device=whole.q.device)
            seen_CW = distance_CW >= 0 if self.blocks.causal else distance_CW != 0
            mask_CW = hidden_as(whole.q.dtype, seen_CW & (distance_CW.abs() < stride))
            rows = slice((alike[0] - first) * stride, (alike[-1] + 1 - first) * stride)
            until = stop + (len(alike) - 1) * stride
            k, v = (x[:, start:until].unfold(1, stop - start, stride).mT for x in (whole.k, whole.v))
            q = whole.q[:, rows].unflatten(1, (-1, stride))
            yield Part(whole._replace(q=q, k=k, v=v, mask=mask_CW[None, None]), rows)

    def _causal_columns(self, whole: Chunks) -> Iterator[Part]:
        """Return rows with their column before them: the blocks without queries, then causally those with queries."""
        first, stride = self.blocks.first, self.blocks.stride
        if first:
            before = whole._replace(k=whole.k[:, :, :first], v=whole.v[:, :, :first])
            yield Part(before, columns=stride)
        if self.blocks.query_blocks > 1:
            k, v = (x[:, :, first:-1] for x in (whole.k, whole.v))
            later = whole._replace(q=whole.q[:, :, 1:], k=k, v=v, causal=True)
            yield Part(later, slice(stride, None), columns=stride)

    def _full_columns(self, whole: Chunks) -> Iterator[Part]:
        """Return rows with their column, without what fills up the last block."""
        key_CM = (
            torch.arange(self.blocks.blocks * self.blocks.stride, device=whole.q.device).view(-1, self.blocks.stride).T
        )
        mask_C1M = hidden_as(whole.q.dtype, key_CM < self.blocks.keys)[:, None]
        is_filled = self.blocks.keys % self.blocks.stride
        mask = mask_C1M.expand(-1, self.blocks.query_blocks, -1)[None] if is_filled else None
        yield Part(whole._replace(mask=mask), columns=self.blocks.stride)
