"""Attention within clusters of equal size of queries and keys that hash alike, in rounds; and its exact gradient."""
# X sequences (batch x heads), R rounds, T queries, S keys, N of either, C clusters of M queries and W keys, Z = X x T,
# D head dimension

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from attnbench_variants.blocks.dtypes import wide_dtype
from attnbench_variants.blocks.lse_kernels import Chunks, Kernel, masked
from attnbench_variants.hashing.hash_rounds import (
    Qkv,
    Result,
    attend_in_rounds,
    blocks,
    buffers_for,
    gradients_in_rounds,
    rows_in_memory,
    tokens_at_a_time,
)


class Shares:
    """The slots of N tokens in hash order, shared out among C clusters, C at most N, whose sizes differ by one at most.

    All clusters have as many slots; in the smaller ones the last slot is empty.
    """

    def __init__(self, tokens: int, clusters: int, *, device: torch.device) -> None:
        self.size = -(-tokens // clusters)
        rank_N = torch.arange(tokens, device=device)
        self.chunk_N = rank_N * clusters // tokens
        first_C1 = -(-torch.arange(clusters + 1, device=device) * tokens // clusters)[:, None]
        self.within_N = rank_N - first_C1[self.chunk_N, 0]
        rank_CM = first_C1[:-1] + torch.arange(self.size, device=device)
        self.empty_CM = rank_CM >= first_C1[1:]
        self.rank_CM = rank_CM.clamp(max=tokens - 1)

    def rows(self, order_XN: Tensor) -> Tensor:
        """Return the row of the token in each slot of all clusters and sequences: [X, C, M]."""
        first_X1 = torch.arange(len(order_XN), device=order_XN.device)[:, None] * order_XN.shape[1]
        return (order_XN + first_X1)[:, self.rank_CM]


class Clusters:
    """The slots of queries and keys in clusters: the same in all rounds of all sequences.

    There are as many clusters as keys fill with `size` each, but no more than queries. Scores are q . k / sqrt(D).
    """

    def __init__(self, queries: int, keys: int, *, size: int, like: Tensor) -> None:
        self.scale = like.shape[-1] ** -0.5
        self.count = min(-(-keys // size), queries)
        self.queries = Shares(queries, self.count, device=like.device)
        self.keys = Shares(keys, self.count, device=like.device)
        empty_CW = self.keys.empty_CM
        mask_CW = like.new_zeros(empty_CW.shape).masked_fill_(empty_CW, masked(like.dtype))
        self.mask_1C1W = mask_CW[None, :, None] if keys % self.count else None


class SortedClusters:
    """The clusters of some sequences in one round."""

    def __init__(self, q_order_XT: Tensor, k_order_XS: Tensor, clusters: Clusters) -> None:
        self.q_order_XT, self.k_order_XS, self.clusters = q_order_XT, k_order_XS, clusters
        self.q_row_XCM, self.k_row_XCW = clusters.queries.rows(q_order_XT), clusters.keys.rows(k_order_XS)

    def runs(self) -> list[slice]:
        """Cut the clusters into runs whose copies stay small."""
        of_cluster = max(self.q_row_XCM[:, 0].numel(), self.k_row_XCW[:, 0].numel())
        few = max(1, tokens_at_a_time(self.q_order_XT.device) // of_cluster)
        return [slice(first, min(first + few, self.clusters.count)) for first in range(0, self.clusters.count, few)]

    def chunks(self, qkv: Qkv, run: slice) -> Chunks:
        """Copy the queries and the keys of some clusters into hash order."""
        mask_1C1W = self.clusters.mask_1C1W
        mask_1C1W = None if mask_1C1W is None else mask_1C1W[:, run]
        k_XCWD, v_XCWD = (_copied(x_XSD, self.k_row_XCW[:, run]) for x_XSD in qkv[1:])
        return Chunks(self.sorted_queries(qkv.q, run), k_XCWD, v_XCWD, mask_1C1W, scale=self.clusters.scale)

    def sorted_queries(self, x_XTD: Tensor, run: slice) -> Tensor:
        """Copy rows into the slots of their queries in some clusters: [X, C, M, D]. An empty slot gets any row."""
        return _copied(x_XTD, self.q_row_XCM[:, run])

    def hide_empty(self, lse_XCM: Tensor) -> Tensor:
        """Set the log-sum-exp of empty slots so high that their weights are zero, in place."""
        return lse_XCM.masked_fill_(self.clusters.queries.empty_CM, -masked(lse_XCM.dtype))

    def query_rows(self, x_XCMD: Tensor) -> Tensor:
        """Return the row of x of each query: [Z, 1]."""
        shares = self.clusters.queries
        return rows_in_memory(x_XCMD, self.q_order_XT, chunk_N=shares.chunk_N, within_N=shares.within_N)

    def key_rows(self, x_XCWD: Tensor) -> Tensor:
        """Return the row of x of each key: [X x S, 1]."""
        shares = self.clusters.keys
        return rows_in_memory(x_XCWD, self.k_order_XS, chunk_N=shares.chunk_N, within_N=shares.within_N)


class Orders(NamedTuple):
    """The order of queries and of keys by their hashes in each round: [X, R, T] and [X, R, S]."""

    q_XRT: Tensor
    k_XRS: Tensor

    def rounds(self, few: slice, clusters: Clusters) -> list[SortedClusters]:
        """Return the clusters of some sequences in each round."""
        pairs = zip(self.q_XRT[few].unbind(1), self.k_XRS[few].unbind(1), strict=True)
        return [SortedClusters(q_order_XT, k_order_XS, clusters) for q_order_XT, k_order_XS in pairs]


def attend_in_clusters(qkv: Qkv, orders: Orders, *, clusters: Clusters, kernel: Kernel) -> Tensor:
    """Attend in each round within clusters, and merge the rounds: out_XTD. Differentiable."""
    out_XTD: Tensor = _InClusters.apply(*qkv, orders, clusters, kernel)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return out_XTD


class _InClusters(torch.autograd.Function):
    """A few sequences at a time, so that copies in hash order are small. Scores are recomputed for the gradient.

    By hand, as autograd would keep the scores: `smyrf` would take 1.1 times as long for both passes and hold 3.5 times
    the memory (2048 tokens).
    """

    @staticmethod
    def forward(
        ctx: Any, q_XTD: Tensor, k_XSD: Tensor, v_XSD: Tensor, orders: Orders, clusters: Clusters, kernel: Kernel
    ) -> Tensor:
        out_XTD = torch.empty_like(q_XTD)
        lse_XT = q_XTD.new_empty(q_XTD.shape[:2], dtype=wide_dtype(q_XTD.dtype))
        several = _blocks(q_XTD, k_XSD)
        rounds, slots = orders.q_XRT.shape[1], clusters.queries.size
        buffers = buffers_for(v_XSD[several[0]], rounds=rounds, chunks=clusters.count, slots=slots)
        for few in several:
            qkv, sorted_clusters = Qkv(q_XTD[few], k_XSD[few], v_XSD[few]), orders.rounds(few, clusters)
            out_XTD[few], lse_XT[few] = attend_in_rounds(qkv, sorted_clusters, kernel=kernel, buffers=buffers)
        ctx.save_for_backward(q_XTD, k_XSD, v_XSD, *orders, out_XTD, lse_XT)
        ctx.clusters, ctx.kernel = clusters, kernel
        return out_XTD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_XTD: Tensor) -> tuple[Tensor | None, ...]:
        *qkv, q_order_XRT, k_order_XRS, out_XTD, lse_XT = ctx.saved_tensors
        orders = Orders(q_order_XRT, k_order_XRS)
        gradients = Qkv(*(torch.empty_like(x) for x in qkv))
        for few in _blocks(*qkv[:2]):
            result = Result(out_XTD[few], grad_XTD[few], lse_XT[few])
            some, rounds = Qkv(*(x[few] for x in qkv)), orders.rounds(few, ctx.clusters)
            of_few = gradients_in_rounds(some, rounds, kernel=ctx.kernel, result=result)
            for whole, part in zip(gradients, of_few, strict=True):
                whole[few] = part
        return *gradients, None, None, None


def _copied(x_XND: Tensor, row_XCM: Tensor) -> Tensor:
    return x_XND.flatten(0, 1).index_select(0, row_XCM.reshape(-1)).view(*row_XCM.shape, -1)


def _blocks(q_XTD: Tensor, k_XSD: Tensor) -> list[slice]:
    return blocks(len(q_XTD), max(q_XTD.shape[1], k_XSD.shape[1]), device=q_XTD.device)
