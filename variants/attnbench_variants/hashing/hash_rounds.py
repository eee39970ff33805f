"""Attention in hash order, all rounds merged into one softmax by their log-sum-exps; and its exact gradient.

    out = sum_r exp(lse_r - L) out_r,   L = logsumexp_r(lse_r)              (Kitaev et al. 2020, appendix A)

In a round the sorted queries and keys are cut into chunks of slots, some of which may be empty.
"""
# X sequences (batch x heads), R rounds, T queries, S keys, C chunks of M queries and W keys, Z = X x T queries, D head
# dimension

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from attnbench_variants.blocks.dtypes import wide_dtype
from attnbench_variants.blocks.lse_kernels import Chunks, Kernel

# Tokens in hash order at a time. On a CPU: a head of usual length, whose copies stay in cache and in the heap.
_CPU_TOKENS, _DEVICE_TOKENS = 2**12, 2**20


class Qkv(NamedTuple):
    """Queries [X, T, D], keys and values [X, S, D]."""

    q: Tensor
    k: Tensor
    v: Tensor


class Result(NamedTuple):
    """The output and its gradient [X, T, D], and the log-sum-exp over all rounds [X, T]."""

    out: Tensor
    grad: Tensor
    lse: Tensor


class Round(Protocol):
    """The slots of queries and keys in one round of hashing: copies into hash order, and the way back."""

    def runs(self) -> list[slice]:
        """Cut the chunks into runs whose copies stay small."""
        ...

    def chunks(self, qkv: Qkv, run: slice) -> Chunks:
        """Copy the queries of some chunks, and the keys and values that they see, into hash order."""
        ...

    def sorted_queries(self, x_XTD: Tensor, run: slice) -> Tensor:
        """Copy rows into the slots of their queries in some chunks: [X, C, M, D]. An empty slot gets any row."""
        ...

    def hide_empty(self, lse_XCM: Tensor) -> Tensor:
        """Set the log-sum-exp of empty slots so high that their weights are zero, in place."""
        ...

    def query_rows(self, x_XCMD: Tensor) -> Tensor:
        """Return the row of x of each query: [Z, 1]."""
        ...

    def key_rows(self, x_XCWD: Tensor) -> Tensor:
        """Return the rows of x of each key: a column for each chunk that sees it."""
        ...


class Buffers(NamedTuple):
    """Buffers for the results of all rounds of some sequences: outputs [R, X, C, M, D], log-sum-exps [R, X, C, M].

    Allocated once a call: allocated for each sequence anew they are returned to the system and faulted in each time.
    """

    out: Tensor
    lse: Tensor


def buffers_for(v_XSD: Tensor, *, rounds: int, chunks: int, slots: int) -> Buffers:
    """Allocate buffers for as many sequences as these, with so many slots for queries in a chunk."""
    sizes = (rounds, len(v_XSD), chunks, slots)
    return Buffers(v_XSD.new_empty(*sizes, v_XSD.shape[2]), v_XSD.new_empty(sizes, dtype=wide_dtype(v_XSD.dtype)))


def attend_in_rounds(qkv: Qkv, rounds: Sequence[Round], *, kernel: Kernel, buffers: Buffers) -> tuple[Tensor, Tensor]:
    """Attend in each round within chunks, and merge the rounds: out_XTD and its log-sum-exp lse_XT."""
    sequences, queries, features = *qkv.q.shape[:2], qkv.v.shape[2]
    for one, out_XCMD, lse_XCM in zip(rounds, *buffers, strict=True):
        for run in one.runs():
            out_XCMD[:sequences, run], lse_XCM[:sequences, run] = kernel.forward(one.chunks(qkv, run))
    row_ZR = torch.cat([one.query_rows(out_XCMD) for one, out_XCMD in zip(rounds, buffers.out, strict=True)], dim=1)
    lse_ZR = buffers.lse.view(-1)[row_ZR]
    lse_Z1 = lse_ZR.logsumexp(dim=1, keepdim=True)
    share_ZR = (lse_ZR - lse_Z1).exp_().to(buffers.out.dtype)
    out_ZD = sum_rows(buffers.out, row_ZR, weights=share_ZR)
    return out_ZD.view(sequences, queries, features), lse_Z1.view(sequences, queries)


def gradients_in_rounds(qkv: Qkv, rounds: Sequence[Round], *, kernel: Kernel, result: Result) -> Qkv:
    """Return the gradients: with the log-sum-exp over all rounds, a round's weights are its share of one softmax."""
    sums = Qkv(*(torch.zeros_like(x, dtype=result.lse.dtype) for x in qkv))
    for one in rounds:
        every = slice(0, one.runs()[-1].stop)
        lse_XCM = one.hide_empty(one.sorted_queries(result.lse[..., None], every)[..., 0])
        out_XCMD, grad_XCMD = one.sorted_queries(result.out, every), one.sorted_queries(result.grad, every)
        dq, dk, dv = kernel.backward(one.chunks(qkv, every), grad_XCMD, out_XCMD, lse_XCM)
        sums.q.add_(sum_rows(dq, one.query_rows(dq)).view_as(qkv.q))
        sums.k.add_(sum_rows(dk, one.key_rows(dk)).view_as(qkv.k))
        sums.v.add_(sum_rows(dv, one.key_rows(dv)).view_as(qkv.v))
    return sums


def sum_rows(x: Tensor, rows_ZR: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Sum some rows of x, numbered as they lie in memory, for each token, weighted or not, in one pass: [Z, D]."""
    in_memory = x.as_strided((x.numel() // x.shape[-1], x.shape[-1]), (x.shape[-1], 1))
    return embedding_bag(rows_ZR, in_memory, per_sample_weights=weights, mode="sum")


def rows_in_memory(x: Tensor, order_XN: Tensor, *, chunk_N: Tensor, within_N: Tensor) -> Tensor:
    """Return the row of x [X, C, M, D] of each token, given the chunk and the slot of each rank in hash order: [Z, 1].

    Rows are numbered as they lie in memory, as the fused kernel's gradients have another layout than its output.
    """
    features = x.shape[3]
    per_sequence, per_chunk, per_slot = (stride // features for stride in x.stride()[:3])
    row_N = chunk_N * per_chunk + within_N * per_slot + x.storage_offset() // features
    row_XN = row_N + torch.arange(len(order_XN), device=x.device)[:, None] * per_sequence
    return torch.empty_like(order_XN).scatter_(1, order_XN, row_XN).view(-1, 1)


def blocks(sequences: int, tokens: int, *, device: torch.device) -> list[slice]:
    """Cut sequences of so many tokens into blocks, so that copies in hash order are small."""
    few = max(1, tokens_at_a_time(device) // tokens)
    return [slice(first, first + few) for first in range(0, sequences, few)]


def tokens_at_a_time(device: torch.device) -> int:
    """Return the number of tokens that are copied into hash order at a time."""
    return _CPU_TOKENS if device.type == "cpu" else _DEVICE_TOKENS
