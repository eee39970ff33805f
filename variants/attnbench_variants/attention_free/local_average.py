"""Local averages: a query gets the mean of the values around it. No attention; a floor for what attention brings.

Not of a paper; it is what `window` returns where all scores are equal:

    out_i = mean of v_j over the j in N(i),   N(i) = {j: |i - j| < width}, causally {j: i - width < j <= i}

Queries and keys are not read. Queries are the last T positions of the keys. In decoding the last values are the state:
O(width D) a token. Time and memory: O(S D), whatever the width.

Sums are made of chunks' sums and of sums within chunks, in float32 or wider; the former are added up in float64, so
that an average is as exact at the end of a long sequence as at its start.
"""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension, X = B * G; J chunks of C positions

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import msgspec
import torch
from msgspec import Meta
from torch.nn.functional import pad

from attnbench import Case, Support
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.dtypes import wide, wide_dtype
from attnbench_variants.blocks.flop_counts import executed_with
from attnbench_variants.blocks.fused_kernels import TORCH
from attnbench_variants.blocks.grouped_heads import per_query_head
from attnbench_variants.blocks.masks import require_queries_last
from attnbench_variants.blocks.reach import share_seen
from attnbench_variants.blocks.ring_cache import RingCache, State

# Of 16, 32 and 64 the fastest on a CPU: small triangles of ones are multiplied at the speed of memory.
_CHUNK = 32
# Values at a time: on a CPU what is made of them stays in cache, and is not returned to the system after each call.
_CPU_VALUES, _DEVICE_VALUES = 2**18, 2**28


class LocalAverage:
    """Mean of the values near by: what `window` returns where all scores are equal; a floor, not of a paper."""

    class Options(BaseOptions, frozen=True, kw_only=True):
        """The window."""

        width: Annotated[
            int, Meta(ge=1, description="values averaged, one's own included; not causal: as many on either side")
        ] = 256

    supports = Support(
        devices=("cpu", "cuda"),
        window="its window is its own: set its option width instead",
        grouped=True,
        growth=1,
        spans=("width",),
    )
    backend = f"torch-matmul {TORCH}"

    def __init__(self, case: Case, options: Options) -> None:
        require_queries_last(case)
        self._reach = _reach(case, options)
        self._cache = RingCache(options.width)

    def __call__(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Average: out_BHTD."""
        del k_BGSD
        heads, queries = q_BHTD.shape[1:3]
        out_XTD: torch.Tensor = _Means.apply(v_BGSD.flatten(0, 1), queries, self._reach)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return per_query_head(out_XTD.unflatten(0, v_BGSD.shape[:2]), heads)

    def prefill(self, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> State:
        """Return the last values."""
        del k_BGSD
        return self._cache.filled(v_BGSD)

    def step(
        self, q_BH1D: torch.Tensor, k_BG1D: torch.Tensor, v_BG1D: torch.Tensor, state: State
    ) -> tuple[torch.Tensor, State]:
        """Write a value over the one that left the window, and average: out_BH1D and the new state."""
        del k_BG1D
        (v_BGWD,), after = self._cache.with_next(state, v_BG1D)
        out_BG1D = v_BGWD.mean(dim=2, keepdim=True, dtype=wide_dtype(v_BGWD.dtype)).to(v_BGWD.dtype)
        return per_query_head(out_BG1D, q_BH1D.shape[1]), after

    @staticmethod
    def reach(case: Case) -> float:
        """Return the share of the visible keys whose values are averaged."""
        width = msgspec.convert(case.options, LocalAverage.Options).width
        return share_seen(case, lambda i, j: (i - j).abs() < width)

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: with triangles of ones, to sum within chunks."""
        shape = case.shape
        reach = _reach(case, msgspec.convert(case.options, LocalAverage.Options))
        forward, backward = _WindowSums(shape.seq_q, reach), _WindowSums(shape.seq_k, reach.mirrored())
        return (
            2 * shape.batch * shape.kv_heads * shape.head_dim * executed_with(forward.products, backward.products, case)
        )


class _Reach(NamedTuple):
    """The numbers of positions before and after its own that a query averages over."""

    before: int
    after: int

    def mirrored(self) -> "_Reach":
        """Return the reach of a value: the queries that it is averaged by."""
        return _Reach(self.after, self.before)


class _WindowSums:
    """Sums over windows around the last `rows` positions, from positions cut into chunks, the first row in chunk 0.

    A window that starts at position c of chunk n holds the rest of that chunk, the `whole` next ones, and of those
    after them the first rest + c positions.
    """

    def __init__(self, rows: int, reach: _Reach) -> None:
        self.before, self.after = reach
        width = reach.before + 1 + reach.after
        self.rows, self.chunk = rows, min(_CHUNK, width)
        self.whole, self.rest = width // self.chunk - 1, width % self.chunk
        self.blocks = -(-rows // self.chunk)
        self.chunks = self.blocks + self.whole + 2

    @property
    def products(self) -> int:
        """Count the multiplications for each feature of a sequence."""
        return (2 + bool(self.rest)) * self.chunks * self.chunk**2

    def sums(self, x_XSD: torch.Tensor) -> torch.Tensor:
        """Sum over the windows around the last rows, as if there were zeros on either side: [X, rows, D]."""
        leading = self.before - (x_XSD.shape[1] - self.rows)
        trailing = self.chunks * self.chunk - leading - x_XSD.shape[1]
        chunks_XJCD = pad(x_XSD, (0, 0, leading, trailing)).unflatten(1, (self.chunks, self.chunk))
        square_CC = x_XSD.new_ones(self.chunk, self.chunk)
        sums_XNCD = self._within(chunks_XJCD, square_CC.triu(), further=0)
        sums_XNCD += self._of_whole(chunks_XJCD)
        sums_XNCD += self._within(chunks_XJCD, square_CC.tril(self.rest - 1), further=self.whole + 1)
        if self.rest:
            sums_XNCD += self._within(chunks_XJCD, square_CC.tril(self.rest - 1 - self.chunk), further=self.whole + 2)
        return sums_XNCD.flatten(1, 2)[:, : self.rows]

    def _within(self, chunks_XJCD: torch.Tensor, which_CC: torch.Tensor, *, further: int) -> torch.Tensor:
        """Sum, for each start in a window's first chunk, the positions of a later chunk that it holds: [X, N, C, D]."""
        sums_XJCD = (which_CC @ chunks_XJCD.flatten(0, 1)).view_as(chunks_XJCD)
        return sums_XJCD[:, further : further + self.blocks]

    def _of_whole(self, chunks_XJCD: torch.Tensor) -> torch.Tensor:
        """Sum the whole chunks of the windows that start in each chunk: [X, N, 1, D]."""
        up_to_XJD = pad(chunks_XJCD.sum(dim=2).cumsum(dim=1, dtype=torch.float64), (0, 0, 1, 0))
        first, last = up_to_XJD[:, 1:], up_to_XJD[:, 1 + self.whole :]
        return (last[:, : self.blocks] - first[:, : self.blocks]).to(chunks_XJCD.dtype)[:, :, None]


class _Means(torch.autograd.Function):
    """The gradient of a value is a sum over a window too, of the queries that it is near to.

    By hand, as autograd would go back through each sum: `local-average` would take 1.5 times as long for both passes,
    with the same memory (2048 tokens).
    """

    @staticmethod
    def forward(ctx: Any, v_XSD: torch.Tensor, queries: int, reach: _Reach) -> torch.Tensor:
        ctx.keys, ctx.reach = v_XSD.shape[1], reach
        windows, counts_T1 = _WindowSums(queries, reach), _counts(v_XSD, reach, queries=queries, keys=ctx.keys)
        return _few_at_a_time(v_XSD, queries, compute=lambda few_XSD: windows.sums(few_XSD).div_(counts_T1))

    @staticmethod
    def backward(ctx: Any, grad_XTD: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        windows = _WindowSums(ctx.keys, ctx.reach.mirrored())
        counts_T1 = _counts(grad_XTD, ctx.reach, queries=grad_XTD.shape[1], keys=ctx.keys)
        return _few_at_a_time(grad_XTD, ctx.keys, compute=lambda few_XTD: windows.sums(few_XTD / counts_T1)), None, None


def _few_at_a_time(x_XSD: torch.Tensor, rows: int, *, compute: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Compute [X, rows, D] for few of the sequences at a time, in float32 or wider."""
    out = x_XSD.new_empty(x_XSD.shape[0], rows, x_XSD.shape[2])
    values = _CPU_VALUES if x_XSD.device.type == "cpu" else _DEVICE_VALUES
    few = max(1, values // x_XSD[0].numel())
    for few_XSD, out_XTD in zip(x_XSD.split(few), out.split(few), strict=True):
        out_XTD.copy_(compute(wide(few_XSD)))
    return out


def _counts(like: torch.Tensor, reach: _Reach, *, queries: int, keys: int) -> torch.Tensor:
    """Count the positions that each query averages over, [T, 1]: fewer at either end of the sequence."""
    i_T1 = torch.arange(keys - queries, keys, device=like.device)[:, None]
    return (i_T1.clamp(max=reach.before) + 1 + (keys - 1 - i_T1).clamp(max=reach.after)).to(wide_dtype(like.dtype))


def _reach(case: Case, options: LocalAverage.Options) -> _Reach:
    before = min(options.width, case.shape.seq_k) - 1
    return _Reach(before, 0 if case.mask.causal else before)
