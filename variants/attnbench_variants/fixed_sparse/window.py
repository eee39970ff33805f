"""Sliding-window attention: every query attends to the keys around its own position.

Beltagy et al. 2020, "Longformer", section 3.1; Child et al. 2019, section 4:

    out_i = sum_j softmax_j(q_i . k_j / sqrt(D)) v_j   over the keys j in N(i)
    N(i) = {j: |i - j| < width}, causally {j: i - width < j <= i}

which is what exact attention does under the workload's window of that size. Queries are the last T positions of the
keys. In decoding the last keys are the state. Time: O(T width D), a token O(width D). Memory beyond the output: O(T).

Where papers differ: Longformer's w is the whole width of a window of w / 2 keys on either side, here `width` counts one
side with the query's own key, so that it is the same number with and without causality. Dilation d (Longformer, section
3.1) leaves gaps of d - 1: the keys i - m d with |m| < width.
"""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension, X = B * H

from typing import Annotated, ClassVar

import msgspec
import torch
from msgspec import Meta

from attnbench import Case, Support, Tune
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.flop_counts import executed_pairs
from attnbench_variants.blocks.fused_kernels import Fused
from attnbench_variants.blocks.grouped_heads import per_query_head
from attnbench_variants.blocks.masks import require_queries_last
from attnbench_variants.blocks.reach import share_seen
from attnbench_variants.blocks.ring_cache import DecodesInWindow, RingCache
from attnbench_variants.fixed_sparse.window_pattern import WindowPattern, band, pairs_of
from attnbench_variants.fixed_sparse.windows import Windows


class Window(DecodesInWindow):
    """Sliding-window attention (Beltagy et al. 2020, "Longformer", section 3.1; Child et al. 2019, section 4)."""

    class Options(BaseOptions, frozen=True, kw_only=True):
        """The window."""

        width: Annotated[
            int, Meta(ge=1, description="keys that a query sees, its own included; not causal: as many on either side")
        ] = 256
        dilation: Annotated[int, Meta(ge=1, description="distance between the keys of a window; 1 leaves no gaps")] = 1

    tunes: ClassVar = {"width": Tune("32..4096")}
    supports = Support(
        window="its window is its own: set its option width instead",
        grouped=True,
        growth=1,
        spans=("width",),
    )

    def __init__(self, case: Case, options: Options) -> None:
        require_queries_last(case)
        like = torch.empty(0, dtype=getattr(torch, case.dtype), device=case.device)
        self._attend = Windows(_pattern(case, options), queries=case.shape.seq_q, keys=case.shape.seq_k, like=like)
        self.cache = RingCache(options.width, dilation=options.dilation)
        self.fused = Fused(case)
        self.backend = self._attend.kernel.name

    def __call__(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        heads = q_BHTD.shape[1]
        q_XTD, k_XSD, v_XSD = (per_query_head(x, heads).flatten(0, 1) for x in (q_BHTD, k_BGSD, v_BGSD))
        return self._attend(q_XTD, k_XSD, v_XSD).view(q_BHTD.shape)

    @staticmethod
    def reach(case: Case) -> float:
        """Return the share of the visible keys that lie in a query's window."""
        options = msgspec.convert(case.options, Window.Options)
        span, step = options.width * options.dilation, options.dilation
        return share_seen(case, lambda i, j: ((i - j).abs() < span) & ((i - j) % step == 0))

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: every key that a query's block is shown, seen or not."""
        pattern = _pattern(case, msgspec.convert(case.options, Window.Options))
        return executed_pairs(pairs_of(pattern, queries=case.shape.seq_q, keys=case.shape.seq_k), case)


def _pattern(case: Case, options: Window.Options) -> WindowPattern:
    reach = min(options.width, case.shape.seq_k) - 1
    return band(before=reach, after=0 if case.mask.causal else reach, dilation=options.dilation)
