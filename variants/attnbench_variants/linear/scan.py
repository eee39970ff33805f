"""Recurrences with a state that decays: each position writes into a matrix and queries read it; in chunks or steps.

    S_t = diag(a_t) S_{t-1} + k_t^T u_t,   o_t = q_t S_t           S [D, E], a_t [D] or one number for all D
    u_t = v_t,   or by the delta rule   u_t = b_t (v_t - k_t diag(a_t) S_{t-1})                     u_t, v_t [E]

In a chunk of C positions after the state S, with g_t the product of its decays up to t, and M_ts that from s + 1 to t:

    Y = (Q * g) S + tril(M * (Q K^T)) U,   S' = g_C S + (K * M_C)^T U                        Y, U [C, E], M [C, C]
    U = V,   or by the delta rule   U = (I + tril(b M * (K K^T), -1))^-1 b (V - (K * g) S)

What decays is multiplied by decays, never divided by them: no factor is above one, so that a strong decay makes nothing
else vanish. Time: O(S D E + T C (D + E)).
"""
# X rows that share nothing (B * H), T queries, S keys, D features of a key, E of a value, F decays of a position (D, or
# 1 for all features), L positions of a run, which is N chunks of C positions; 1 in a shape: the same for all

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import torch

from attnbench_variants.blocks.dtypes import wide, wide_dtype
from attnbench_variants.linear.decayed_pairs import attend_by_halves

CHUNK = 64  # of 32, 64 and 128 the fastest on a CPU
# Elements of a run's keys on a CPU, so that what is made of them stays in the cache: the fastest from 2**15 to 2**19.
_CACHED_ELEMENTS = 2**18


# The state before each chunk, u of each position, and the state after all: states_XNDE, u_XNCE, after_XDE.
Written: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Writes(NamedTuple):
    """The keys, values, log a (at most 0) and, by the delta rule, b (with F = 1) of each position."""

    k_XSD: torch.Tensor
    v_XSE: torch.Tensor
    log_decay_XSF: torch.Tensor  # [X, 1, F]: the same at every position
    beta_XS1: torch.Tensor | None = None

    def repeated(self, times: int) -> "Writes":
        """Repeat each row, for the heads that share it."""
        k, v, log_decay = (x.repeat_interleave(times, dim=0) for x in self[:3])
        return Writes(k, v, log_decay, None if self.beta_XS1 is None else self.beta_XS1.repeat_interleave(times, dim=0))


def attend_by_recurrence(q_XTD: torch.Tensor, writes: Writes) -> torch.Tensor:
    """Read the state after each of the last T positions: out_XTE in float32 or wider. Differentiable."""
    queries, keys = q_XTD.shape[1], writes.k_XSD.shape[1]
    earlier, own = _runs(keys - queries, writes), _runs(queries, writes)
    parts = list(_split(writes, [*earlier, *own]))
    state_XDE, read = _written(parts[: len(earlier)], writes), []
    for q_XLD, part in zip(q_XTD.split(own, dim=1), parts[len(earlier) :], strict=True):
        y_XNCE, state_XDE = _chunks(part).read(_cut(q_XLD), state_XDE)
        read.append(y_XNCE.flatten(1, 2))
    return torch.cat(read, dim=1)


def state_after(writes: Writes) -> torch.Tensor:
    """Return the state after all positions: state_XDE in float32 or wider, zeros after none."""
    return _written(_split(writes, _runs(writes.k_XSD.shape[1], writes)), writes)


def step(q_XTD: torch.Tensor, write: Writes, state_XDE: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Write one position into the state and read it with all queries: (out_XTE, the state after it). Time: O(D E)."""
    k_X1D, v_X1E = write.k_XSD.to(state_XDE.dtype), write.v_XSE.to(state_XDE.dtype)
    decayed_XDE = write.log_decay_XSF.exp().mT * state_XDE
    u_X1E = v_X1E if write.beta_XS1 is None else write.beta_XS1 * (v_X1E - k_X1D @ decayed_XDE)
    after_XDE = torch.baddbmm(decayed_XDE, k_X1D.mT, u_X1E)
    return q_XTD.to(state_XDE.dtype) @ after_XDE, after_XDE


class _OneDecay:
    """Chunks whose positions decay all features alike: M is a matrix of numbers."""

    def __init__(
        self, k_XNCD: torch.Tensor, v_XNCE: torch.Tensor, log_XNC1: torch.Tensor, beta_XNC1: torch.Tensor | None
    ) -> None:
        self._k_XNCD, self._v_XNCE, self._beta_XNC1 = k_XNCD, v_XNCE, beta_XNC1
        # Differences of sums are taken in float64: beside a strong decay float32 would lose a weak one.
        self._sums_XNC1 = log_XNC1.to(torch.float32 if log_XNC1.device.type == "mps" else torch.float64).cumsum(2)
        self._from_start_XNC1 = self._sums_XNC1.exp().to(k_XNCD.dtype)
        self._to_end_XNC1 = (self._sums_XNC1[:, :, -1:] - self._sums_XNC1).exp().to(k_XNCD.dtype)

    def write(self, state_XDE: torch.Tensor) -> Written:
        """Write all positions; by the delta rule chunk by chunk (Yang et al. 2024, section 3.2)."""
        total_XN11 = self._from_start_XNC1[:, :, -1:].expand(-1, self._k_XNCD.shape[1], -1, -1)
        keys_XNCD = self._k_XNCD * self._to_end_XNC1
        if self._beta_XNC1 is None:
            return _accumulated(keys_XNCD, self._v_XNCE, total_XN11, state_XDE)
        asked = self._k_XNCD * self._from_start_XNC1
        chunks = (x.unbind(1) for x in (self._inverse(self._beta_XNC1), self._v_XNCE, asked, keys_XNCD, total_XN11))
        states, us = [], []
        for inverse_XCC, v_XCE, asked_XCD, k_XCD, total_X11 in zip(*chunks, strict=True):
            states.append(state_XDE)
            us.append(inverse_XCC @ torch.baddbmm(v_XCE, asked_XCD, state_XDE, alpha=-1))
            state_XDE = torch.baddbmm(total_X11 * state_XDE, k_XCD.mT, us[-1])
        return torch.stack(states, dim=1), torch.stack(us, dim=1), state_XDE

    def read(self, q_XNCD: torch.Tensor, state_XDE: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Read after each position: (y_XNCE, the state after all)."""
        states_XNDE, u_XNCE, after_XDE = self.write(state_XDE)
        weights_XNCC = (self._k_XNCD @ q_XNCD.mT) * self._between
        return weights_XNCC.mT @ u_XNCE + (q_XNCD * self._from_start_XNC1) @ states_XNDE, after_XDE

    @cached_property
    def _between(self) -> torch.Tensor:
        """The transpose of M: the decay from each position (row) to each later one (column), zero to earlier ones."""
        length = self._k_XNCD.shape[2]
        earlier_CC = torch.ones(length, length, dtype=torch.bool, device=self._k_XNCD.device).tril(-1)
        log_XNCC = (self._sums_XNC1.mT - self._sums_XNC1).to(self._k_XNCD.dtype)
        return log_XNCC.masked_fill(earlier_CC, -torch.inf).exp()

    def _inverse(self, beta_XNC1: torch.Tensor) -> torch.Tensor:
        """Return (I + tril(b M * (K K^T), -1))^-1 b, the WY form of a chunk: [X, N, C, C]."""
        system_XNCC = (self._k_XNCD @ self._k_XNCD.mT) * self._between * beta_XNC1.mT
        one_CC = torch.eye(self._k_XNCD.shape[2], dtype=self._k_XNCD.dtype, device=self._k_XNCD.device)
        inverse: torch.Tensor = torch.linalg.solve_triangular(
            system_XNCC.mT, one_CC, upper=False, left=False, unitriangular=True
        )
        return inverse * beta_XNC1.mT


class _DecayPerFeature:
    """Chunks in which each feature has decays of its own."""

    def __init__(self, k_XNCD: torch.Tensor, v_XNCE: torch.Tensor, log_XNCD: torch.Tensor) -> None:
        self._k_XNCD, self._v_XNCE, self._decay_XNCD = k_XNCD, v_XNCE, log_XNCD.exp()

    def write(self, state_XDE: torch.Tensor) -> Written:
        """Write all positions."""
        _, _, keys_XNCD, total_XN1D = attend_by_halves(self._k_XNCD, self._k_XNCD, self._v_XNCE, self._decay_XNCD)
        return _accumulated(keys_XNCD, self._v_XNCE, total_XN1D.mT, state_XDE)

    def read(self, q_XNCD: torch.Tensor, state_XDE: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Read after each position: (y_XNCE, the state after all)."""
        y_XNCE, q_XNCD, keys_XNCD, total_XN1D = attend_by_halves(q_XNCD, self._k_XNCD, self._v_XNCE, self._decay_XNCD)
        states_XNDE, _, after_XDE = _accumulated(keys_XNCD, self._v_XNCE, total_XN1D.mT, state_XDE)
        return y_XNCE + q_XNCD @ states_XNDE, after_XDE


def _accumulated(
    keys_XNCD: torch.Tensor, v_XNCE: torch.Tensor, total_XNF1: torch.Tensor, state_XDE: torch.Tensor
) -> Written:
    """Add to the state, chunk after chunk, keys that are decayed up to their chunk's end."""
    states = []
    for added_XDE, total_XF1 in zip((keys_XNCD.mT @ v_XNCE).unbind(1), total_XNF1.unbind(1), strict=True):
        states.append(state_XDE)
        state_XDE = torch.addcmul(added_XDE, total_XF1, state_XDE)
    return torch.stack(states, dim=1), v_XNCE, state_XDE


def _written(parts: Iterable[Writes], like: Writes) -> torch.Tensor:
    """Write one part after the other, from zeros on: state_XDE."""
    k_XSD, v_XSE = like.k_XSD, like.v_XSE
    state_XDE = k_XSD.new_zeros(len(k_XSD), k_XSD.shape[2], v_XSE.shape[2], dtype=wide_dtype(k_XSD.dtype))
    for part in parts:
        *_, state_XDE = _chunks(part).write(state_XDE)
    return state_XDE


def _runs(positions: int, writes: Writes) -> list[int]:
    """Cut positions into runs of whole chunks and what is left over: the length of each."""
    # A run that stays in the cache is fastest on a CPU; a GPU wants all chunks at once.
    whole = positions // CHUNK * CHUNK
    k_XSD = writes.k_XSD
    in_cache = max(1, _CACHED_ELEMENTS // (CHUNK * len(k_XSD) * k_XSD.shape[2])) * CHUNK
    length = in_cache if k_XSD.device.type == "cpu" else max(1, whole)
    ends = [*range(0, whole, length), *{whole, positions}]
    return [stop - start for start, stop in pairwise(sorted(ends))]


def _split(writes: Writes, lengths: Sequence[int]) -> Iterator[Writes]:
    """Split what is written into runs; slices would each have a gradient of full length."""
    k_XSD, v_XSE, log_XSF, beta_XS1 = writes
    logs = [log_XSF] * len(lengths) if log_XSF.shape[1] != k_XSD.shape[1] else log_XSF.split(lengths, dim=1)
    betas = [None] * len(lengths) if beta_XS1 is None else beta_XS1.split(lengths, dim=1)
    return map(Writes, k_XSD.split(lengths, dim=1), v_XSE.split(lengths, dim=1), logs, betas)


def _chunks(part: Writes) -> _OneDecay | _DecayPerFeature:
    """Cut a run into chunks."""
    k_XLD, v_XLE, log_XLF, beta_XL1 = part
    constant = log_XLF.shape[1] != k_XLD.shape[1]
    log_XNCF = log_XLF[:, None].expand(-1, -1, min(CHUNK, k_XLD.shape[1]), -1) if constant else _cut(log_XLF)
    if log_XLF.shape[2] > 1:
        return _DecayPerFeature(_cut(k_XLD), _cut(v_XLE), log_XNCF)
    return _OneDecay(_cut(k_XLD), _cut(v_XLE), log_XNCF, None if beta_XL1 is None else _cut(beta_XL1))


def _cut(x_XLD: torch.Tensor) -> torch.Tensor:
    """Cut whole chunks, or what is left over, which is one: x_XNCD in float32 or wider."""
    return wide(x_XLD).reshape(len(x_XLD), -1, min(CHUNK, x_XLD.shape[1]), x_XLD.shape[2])
