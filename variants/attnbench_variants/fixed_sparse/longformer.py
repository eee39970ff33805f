"""Longformer's attention: a sliding window, and a few global positions that see all and are seen by all.

Beltagy, Peters, Cohan 2020, "Longformer: The Long-Document Transformer", section 3.1:

    out_i = sum_j softmax_j(q_i . k_j / sqrt(D)) v_j   over the keys j in N(i)
    N(i) = {j: |i - j| <= width / 2 or j < globals}, or all keys if i < globals

one softmax, each key once. Queries are the last T positions of the keys. In decoding the global keys and the last ones
of the window are the state. Time: O((T + S)(width + globals) D). Memory beyond the output: O(T + S).

Where the paper leaves a choice, or this differs:

- Global positions are a task's choice (section 3.1): here the first ones, by default one, as for classification.
- Global queries have projections of their own there (section 3.2). A core mechanism is given queries, keys and values
  that are projected already, and uses the same ones for both.
- Causal: the half of the window before a query, and of the global positions too only those up to its own. The paper has
  no global attention in its language model (section 4).
- One dilation for all heads. The paper leaves its lower layers undilated, dilates two heads in higher ones (section
  4.1), and none in its pretrained model (section 5).
- The window counts positions after the global ones only, so that a key is not seen in both ways.
"""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension, X = B * H; E global keys

from collections.abc import Iterator
from typing import Annotated, ClassVar, NamedTuple

import msgspec
import torch
from msgspec import Meta

from attnbench import Case, Mask, Support, Tune
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.flop_counts import executed_pairs
from attnbench_variants.blocks.fused_kernels import Fused
from attnbench_variants.blocks.grouped_heads import per_query_head
from attnbench_variants.blocks.masks import require_queries_last, visible_keys
from attnbench_variants.blocks.reach import share_seen
from attnbench_variants.blocks.ring_cache import DecodesInWindow, RingCache
from attnbench_variants.fixed_sparse.window_pattern import WindowPattern, band, pairs_of
from attnbench_variants.fixed_sparse.windows import Shared, Step, Windows


class Longformer(DecodesInWindow):
    """Sliding window with global positions (Beltagy, Peters, Cohan 2020, "Longformer", section 3.1)."""

    class Options(BaseOptions, frozen=True, kw_only=True):
        """The pattern; by default that of the pretrained model (section 5)."""

        width: Annotated[
            int,
            Meta(ge=2, multiple_of=2, description="keys seen around a query's own, half before and half after it"),
        ] = 512
        globals: Annotated[int, Meta(ge=0, description="leading positions that see all and are seen by all")] = 1
        dilation: Annotated[int, Meta(ge=1, description="distance between the keys of a window; 1 leaves no gaps")] = 1

    tunes: ClassVar = {"width": Tune("32..4096")}
    supports = Support(
        window="its pattern is its own: set its options width and globals instead",
        grouped=True,
        growth=1,
        spans=("width",),
    )

    def __init__(self, case: Case, options: Options) -> None:
        require_queries_last(case)
        shape = case.shape
        self._causal = case.mask.causal
        self._sizes = _sizes(case, options)
        like = torch.empty(0, dtype=getattr(torch, case.dtype), device=case.device)
        local_queries, local_keys = shape.seq_q - self._sizes.queries, shape.seq_k - self._sizes.keys
        self._windows = Windows(_pattern(case, options), queries=local_queries, keys=local_keys, like=like)
        self.fused = Fused(case, masked=self._causal)
        self.cache = RingCache(options.width // 2 + 1, kept=options.globals, dilation=options.dilation)
        self.backend = self._windows.kernel.name

    def __call__(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        heads = q_BHTD.shape[1]
        q_XTD, k_XSD, v_XSD = (per_query_head(x, heads).flatten(0, 1) for x in (q_BHTD, k_BGSD, v_BGSD))
        q_XED, q_XTD = _split(q_XTD, self._sizes.queries)
        rows = [*self._global_rows(q_XED, k_XSD, v_XSD), self._local_rows(q_XTD, k_XSD, v_XSD)]
        return torch.cat(rows, dim=1).view(q_BHTD.shape)

    @staticmethod
    def reach(case: Case) -> float:
        """Return the share of the visible keys in a query's window and at global positions."""
        options = msgspec.convert(case.options, Longformer.Options)
        half, step, hubs = options.width // 2 * options.dilation, options.dilation, options.globals
        return share_seen(
            case, lambda i, j: (((i - j).abs() <= half) & ((i - j) % step == 0)) | (j < hubs) | (i < hubs)
        )

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: every key that a query is shown, seen or not."""
        shape, options = case.shape, msgspec.convert(case.options, Longformer.Options)
        sizes, pattern = _sizes(case, options), _pattern(case, options)
        local_queries = shape.seq_q - sizes.queries
        pairs = pairs_of(pattern, queries=local_queries, keys=shape.seq_k - sizes.keys)
        pairs += local_queries * sizes.keys + sizes.queries * sizes.seen_by_global
        return executed_pairs(pairs, case)

    def _global_rows(self, q_XED: torch.Tensor, k_XSD: torch.Tensor, v_XSD: torch.Tensor) -> Iterator[torch.Tensor]:
        """Attend with the global queries to every key; causally, that is to the global ones up to their own."""
        queries, keys = q_XED.shape[1], self._sizes.seen_by_global
        if queries:
            causal = Mask(causal=self._causal)
            mask_ES = visible_keys(causal, queries=queries, keys=keys, device=q_XED.device)
            yield self.fused(q_XED[None], k_XSD[None, :, :keys], v_XSD[None, :, :keys], mask=mask_ES)[0]

    def _local_rows(self, q_XTD: torch.Tensor, k_XSD: torch.Tensor, v_XSD: torch.Tensor) -> torch.Tensor:
        """Attend with the other queries to the keys around them and to the global ones."""
        (k_XED, k_XSD), (v_XED, v_XSD) = (_split(x, self._sizes.keys) for x in (k_XSD, v_XSD))
        everyone = Step(slice(0, q_XTD.shape[1]), self._sizes.keys)
        shared = Shared(k_XED, v_XED, [everyone]) if self._sizes.keys else None
        return self._windows(q_XTD, k_XSD, v_XSD, shared=shared)


class _Sizes(NamedTuple):
    """The numbers of global keys, of global queries, and of the keys that the latter see."""

    keys: int
    queries: int
    seen_by_global: int


def _sizes(case: Case, options: Longformer.Options) -> _Sizes:
    shape = case.shape
    keys = min(options.globals, shape.seq_k)
    queries = max(0, keys - (shape.seq_k - shape.seq_q))
    return _Sizes(keys, queries, keys if case.mask.causal else shape.seq_k)


def _pattern(case: Case, options: Longformer.Options) -> WindowPattern:
    reach = min(options.width // 2, case.shape.seq_k)
    return band(before=reach, after=0 if case.mask.causal else reach, dilation=options.dilation)


def _split(x_XSD: torch.Tensor, first: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Split positions; as one operation, whose gradient is one copy."""
    leading, others = x_XSD.split([first, x_XSD.shape[1] - first], dim=1)
    return leading, others
