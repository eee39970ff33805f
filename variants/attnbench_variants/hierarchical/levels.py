"""The levels of H-Transformer-1D: ever longer clusters of positions, and attention among those of a level."""
# X = B * H, N positions (at a level: clusters of them), M blocks, C clusters of a block, W = 3 C around a block, D head
# dimension, E head dimension and what else is summed

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from attnbench_variants.blocks.dtypes import wide_dtype
from attnbench_variants.blocks.lse_kernels import Chunks, kernel_for, masked


class Level(NamedTuple):
    """A level's clusters: queries and mean keys and values [X, N, D], and how many positions a cluster has [N]."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    size: torch.Tensor


def clusters_at_levels(positions: int, block: int) -> list[int]:
    """Return the number of clusters of each level, from the positions to the level of two neighbouring blocks."""
    counts = [positions]
    while counts[-1] > 2 * block:
        counts.append(-(-counts[-1] // 2))
    return counts


def far_clusters(i_R1: torch.Tensor, positions: int, *, block: int, causal: bool) -> torch.Tensor:
    """Return the number of clusters that queries at positions i read at all levels above the positions: [R, 1]."""
    count_R1 = torch.zeros_like(i_R1)
    for level, clusters in enumerate(clusters_at_levels(positions, block)[1:], start=1):
        c_R1, c_N = i_R1 >> level, torch.arange(clusters)
        within = (c_R1 // block - c_N // block).abs() <= 1
        seen_below = (c_R1 // (block // 2) - c_N // (block // 2)).abs() <= 1
        earlier = (c_N < c_R1) | (not causal)
        count_R1 = count_R1 + (within & ~seen_below & earlier).sum(1, keepdim=True)
    return count_R1


def levels(
    q_XND: torch.Tensor, k_XND: torch.Tensor, v_XND: torch.Tensor, *, block: int, causal: bool
) -> Iterator[Level]:
    """Return the levels from the positions on, with means over the positions that exist, in float32 or wider."""
    wide = wide_dtype(q_XND.dtype)
    counts = clusters_at_levels(q_XND.shape[1], block)
    sums = [x.to(wide) for x in (q_XND, k_XND, v_XND)]
    size_N = torch.ones(counts[0], dtype=wide, device=q_XND.device)
    yield Level(q_XND, k_XND, v_XND, size_N)
    for level in range(1, len(counts)):
        sums = [_pairs_summed(x) for x in sums]
        size_N = _pairs_summed(size_N[None, :, None])[0, :, 0]
        q_XMD, k_XMD, v_XMD = (x / size_N[:, None] for x in sums)
        yield Level(
            q_XND[:, :: 2**level] if causal else q_XMD.to(q_XND.dtype),
            k_XMD.to(q_XND.dtype),
            v_XMD.to(q_XND.dtype),
            size_N,
        )


def attend_at_level(level: Level, *, near: bool, block: int, causal: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend among the clusters of a level: out_XND and the log-sum-exp [X, N], in float32 or wider.

    At level 0, `near`, a block sees itself and its neighbours; at others, what is too far for the level below.
    """
    clusters = level.q.shape[1]
    q_XMCD = pad(level.q, (0, 0, 0, -clusters % block)).unflatten(1, (-1, block)) * level.q.shape[2] ** -0.5
    bias_MCW = _bias(level.size, level.q.dtype, near=near, block=block, causal=causal)
    k_XMWD, v_XMWD = (_windows(x, block) for x in (level.k, level.v))
    out_XMCD, lse_XMC = _WithSum.apply(q_XMCD, k_XMWD, v_XMWD, bias_MCW[None])  # type: ignore[no-untyped-call]  # torch leaves it untyped
    # A mean counts for as many positions as it was taken over; added here, as scores of narrow dtypes would round it.
    lse_XN = lse_XMC.flatten(1)[:, :clusters] + level.size[0].log()
    return out_XMCD.flatten(1, 2)[:, :clusters].to(lse_XN.dtype), lse_XN


class _WithSum(torch.autograd.Function):
    """Attention and its log-sum-exp, both differentiable, as levels are merged by the latter.

    By hand, as autograd would keep the scores: `hierarchical` would take 1.0 to 1.1 times as long for both passes and
    hold 1.4 times the memory (2048 and 4096 tokens).
    """

    @staticmethod
    def forward(
        ctx: Any, q_XMCD: torch.Tensor, k_XMWD: torch.Tensor, v_XMWD: torch.Tensor, bias: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        out, lse = kernel_for(q_XMCD.device).forward(Chunks(q_XMCD, k_XMWD, v_XMWD, bias))
        ctx.save_for_backward(q_XMCD, k_XMWD, v_XMWD, bias, out, lse)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor, grad_lse: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # Of a score: ds = weights * (grad . v - grad . out + grad_lse).
        q, k, v, bias, out, lse = ctx.saved_tensors
        weights = ((q @ k.mT).to(lse.dtype) + bias).sub_(lse[..., None]).exp_()
        shift = (grad * out).sum(dim=-1, dtype=lse.dtype) - grad_lse
        ds = (grad @ v.mT).to(lse.dtype).sub_(shift[..., None]).mul_(weights).to(q.dtype)
        return ds @ k, ds.mT @ q, weights.to(q.dtype).mT @ grad, None


def _bias(size_N: torch.Tensor, dtype: torch.dtype, *, near: bool, block: int, causal: bool) -> torch.Tensor:
    """Return what is added to scores, [M, C, W]: the mask, and the logarithm of a short cluster's relative size."""
    lowest = masked(dtype)  # finite, as there are rows that see nothing at a level
    log_size_MW = _windows((size_N / size_N[0]).log()[None, :, None], block, value=lowest)[0, ..., 0]
    row_C1 = torch.arange(block, device=size_N.device)[:, None] + block
    key_W = torch.arange(3 * block, device=size_N.device)
    if near:
        seen_CW = key_W <= row_C1 if causal else key_W >= 0
    else:
        # Blocks of the level below are halves of this one's: neighbours there have seen each other already.
        seen_CW = (key_W // block != 1) & ((key_W // (block // 2) - row_C1 // (block // 2)).abs() > 1)
        seen_CW = seen_CW & (key_W < row_C1) if causal else seen_CW
    return log_size_MW[:, None].masked_fill(~seen_CW, lowest).to(dtype)


def _windows(x_XND: torch.Tensor, block: int, *, value: float = 0.0) -> torch.Tensor:
    """View each block together with the ones before and after it: overlapping views of one copy, x_XMWD."""
    filled_XPD = pad(x_XND, (0, 0, block, block + -x_XND.shape[1] % block), value=value)
    x_XMDW: torch.Tensor = filled_XPD.unfold(1, 3 * block, block)
    return x_XMDW.mT


def _pairs_summed(x_XNE: torch.Tensor) -> torch.Tensor:
    """Sum neighbours, two by two; a last one without a neighbour stays as it is."""
    sequences, clusters, width = x_XNE.shape
    return pad(x_XNE, (0, 0, 0, clusters % 2)).view(sequences, -1, 2, width).sum(dim=2)
