"""Attention in hash order, all rounds merged into one softmax by their log-sum-exps; and its exact gradient.

X sequences (batch x heads), R rounds, T queries, S keys, C chunks of M queries and W keys, Z = X x T queries, D head
dimension.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from attnbench_variants.blocks.lse_kernels import Chunks, Kernel

# Tokens in hash order at a time. On a CPU: a head of usual length, whose copies stay in cache and in the heap.
_CPU_TOKENS, _DEVICE_TOKENS = 2**12, 2**20


class Qkv(NamedTuple):
    """Queries [X, T, D], keys and values [X, S, D]."""

    q: Tensor
    k: Tensor
    v: Tensor


class Result(NamedTuple):
    """What was put out and its gradient [X, T, D], and its log-sum-exp over all rounds [X, T]."""

    out: Tensor
    grad: Tensor
    lse: Tensor


class Round(Protocol):
    """Where queries and keys stand in one round of hashing: who meets whom, and the way back."""

    def runs(self) -> list[slice]:
        """Cut the chunks into runs whose copies stay small."""
        ...

    def meet(self, qkv: Qkv, run: slice) -> Chunks:
        """Copy the queries of some chunks and what they may see into hash order."""
        ...

    def in_order(self, x_XTD: Tensor, run: slice) -> Tensor:
        """Copy rows to where their queries stand in some chunks: [X, C, M, D]. An empty place is given some row."""
        ...

    def without_empty(self, lse_XCM: Tensor) -> Tensor:
        """Set the log-sum-exp of queries in empty places so high that they weigh nothing, in place."""
        ...

    def of_queries(self, x_XCMD: Tensor) -> Tensor:
        """Give, for each query, the row of x where it stands: [Z, 1]."""
        ...

    def of_keys(self, x_XCWD: Tensor) -> Tensor:
        """Give, for each key, the rows of x where it stands: as many columns as chunks that see it."""
        ...


class Room(NamedTuple):
    """Room for the results of all rounds of some sequences: outputs [R, X, C, M, D], log-sum-exps [R, X, C, M].

    It is taken once a call: taken for each sequence anew it goes back to the system each time and is faulted in again.
    """

    out: Tensor
    lse: Tensor


def room_for(v_XSD: Tensor, *, rounds: int, chunks: int, places: int) -> Room:
    """Take room for as many sequences as these, with so many places for queries in a chunk."""
    sizes = (rounds, len(v_XSD), chunks, places)
    return Room(v_XSD.new_empty(*sizes, v_XSD.shape[2]), v_XSD.new_empty(sizes, dtype=wide(v_XSD.dtype)))


def attend_in_rounds(qkv: Qkv, rounds: Sequence[Round], *, kernel: Kernel, room: Room) -> tuple[Tensor, Tensor]:
    """Attend in each round within chunks; weigh rounds by their share of the softmax (Kitaev et al. 2020, appendix A).

    Gives the output [X, T, D] and its log-sum-exp over all rounds [X, T].
    """
    sequences, queries, features = *qkv.q.shape[:2], qkv.v.shape[2]
    for each, out_XCMD, lse_XCM in zip(rounds, *room, strict=True):
        for run in each.runs():
            out_XCMD[:sequences, run], lse_XCM[:sequences, run] = kernel.forward(each.meet(qkv, run))
    row_ZR = torch.cat([each.of_queries(out_XCMD) for each, out_XCMD in zip(rounds, room.out, strict=True)], dim=1)
    lse_ZR = room.lse.view(-1)[row_ZR]
    lse_Z1 = lse_ZR.logsumexp(dim=1, keepdim=True)
    share_ZR = (lse_ZR - lse_Z1).exp_().to(room.out.dtype)
    out_ZD = sum_rows(room.out, row_ZR, weights=share_ZR)
    return out_ZD.view(sequences, queries, features), lse_Z1.view(sequences, queries)


def gradients_in_rounds(qkv: Qkv, rounds: Sequence[Round], *, kernel: Kernel, result: Result) -> Qkv:
    """Give the gradients: a round's weights are its part of the one softmax that this log-sum-exp ends."""
    sums = Qkv(*(torch.zeros_like(x, dtype=result.lse.dtype) for x in qkv))
    for each in rounds:
        every = slice(0, each.runs()[-1].stop)
        lse_XCM = each.without_empty(each.in_order(result.lse[..., None], every)[..., 0])
        out_XCMD, grad_XCMD = each.in_order(result.out, every), each.in_order(result.grad, every)
        dq, dk, dv = kernel.backward(each.meet(qkv, every), grad_XCMD, out_XCMD, lse_XCM)
        sums.q.add_(sum_rows(dq, each.of_queries(dq)).view_as(qkv.q))
        sums.k.add_(sum_rows(dk, each.of_keys(dk)).view_as(qkv.k))
        sums.v.add_(sum_rows(dv, each.of_keys(dv)).view_as(qkv.v))
    return sums


def sum_rows(x: Tensor, rows_ZR: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Sum some rows of x, numbered as they lie in memory, for each token, weighted or not, in one pass: [Z, D]."""
    in_memory = x.as_strided((x.numel() // x.shape[-1], x.shape[-1]), (x.shape[-1], 1))
    return embedding_bag(rows_ZR, in_memory, per_sample_weights=weights, mode="sum")


def rows_in_memory(x: Tensor, order_XN: Tensor, *, chunk_N: Tensor, within_N: Tensor) -> Tensor:
    """Give, for each token, the row of x [X, C, M, D] where it stands, given where in hash order that is: [Z, 1].

    Rows are numbered as they lie in memory, where the fused kernel's gradients are laid out otherwise than its output.
    """
    features = x.shape[3]
    per_sequence, per_chunk, per_place = (stride // features for stride in x.stride()[:3])
    row_N = chunk_N * per_chunk + within_N * per_place + x.storage_offset() // features
    row_XN = row_N + torch.arange(len(order_XN), device=x.device)[:, None] * per_sequence
    return torch.empty_like(order_XN).scatter_(1, order_XN, row_XN).view(-1, 1)


def blocks(sequences: int, tokens: int, *, device: torch.device) -> list[slice]:
    """Cut sequences of so many tokens into blocks, so that copies in hash order are small."""
    few = max(1, tokens_at_a_time(device) // tokens)
    return [slice(first, first + few) for first in range(0, sequences, few)]


def tokens_at_a_time(device: torch.device) -> int:
    """Tell of how many tokens copies are made in one go."""
    return _CPU_TOKENS if device.type == "cpu" else _DEVICE_TOKENS


def wide(dtype: torch.dtype) -> torch.dtype:
    """Give the dtype of sums: float32 or wider."""
    return torch.promote_types(dtype, torch.float32)
