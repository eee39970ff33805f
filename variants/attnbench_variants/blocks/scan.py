"""Recurrences with a state that decays: each position writes into a matrix, and queries read it; in chunks or steps."""
# X rows that share nothing (B * H), T queries, S keys, D features of a key, E of a value, F decays of a position (D, or
# 1 for all features), L positions of a run, which is N chunks of C positions; 1 in a shape: the same for all

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import torch

from attnbench_variants.blocks.halves import attend_by_halves

CHUNK = 64  # of 32, 64 and 128 the fastest on a CPU
# Elements of a run's keys on a CPU, so that what is made of them stays in the cache: the fastest from 2**15 to 2**19.
_CACHED_ELEMENTS = 2**18


Beta: TypeAlias = torch.Tensor | None
# The state before each chunk, what each position writes of its key, and the state after all: states_XNDE, u_XNCE, ...
Written: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Writes(NamedTuple):
    """What each position does to the state: S <- diag(a) S + k^T u, where a = exp(log_decay) is at most 1.

    u is the value v; with a beta it is beta (v - k diag(a) S), a share of what the state lacks (the delta rule, F = 1).
    """

    k_XSD: torch.Tensor
    v_XSE: torch.Tensor
    log_decay_XSF: torch.Tensor  # [X, 1, F]: the same at every position
    beta_XS1: Beta = None

    def repeated(self, times: int) -> "Writes":
        """Repeat each row, for the heads that share it."""
        k, v, log_decay = (x.repeat_interleave(times, dim=0) for x in self[:3])
        return Writes(k, v, log_decay, None if self.beta_XS1 is None else self.beta_XS1.repeat_interleave(times, dim=0))


def attend_by_recurrence(q_XTD: torch.Tensor, writes: Writes) -> torch.Tensor:
    """Read the state after each of the last T positions, o_t = q_t S_t: out_XTE in float32 or wider. Differentiable.

    Time: O(S D E + T C (D + E)). What decays is multiplied by decays, never divided by them: where they are strong it
    becomes nothing, and nothing else does: no factor is above 1.
    """
    queries, keys = q_XTD.shape[1], writes.k_XSD.shape[1]
    earlier, own = _runs(keys - queries, writes), _runs(queries, writes)
    parts = list(_split(writes, [*earlier, *own]))
    state_XDE, read = _advanced(_nothing(writes), parts[: len(earlier)]), []
    for q_XLD, part in zip(q_XTD.split(own, dim=1), parts[len(earlier) :], strict=True):
        y_XNCE, state_XDE = _chunks(part).read(_cut(q_XLD), state_XDE)
        read.append(y_XNCE.flatten(1, 2))
    return torch.cat(read, dim=1)


def state_after(writes: Writes) -> torch.Tensor:
    """Give the state after all positions: state_XDE in float32 or wider, zeros after none."""
    return _advanced(_nothing(writes), _split(writes, _runs(writes.k_XSD.shape[1], writes)))


def one_further(q_XTD: torch.Tensor, write: Writes, state_XDE: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Write one position into the state and read it with all queries: (out_XTE, the state after it). Time: O(D E)."""
    k_X1D, v_X1E = write.k_XSD.to(state_XDE.dtype), write.v_XSE.to(state_XDE.dtype)
    decayed_XDE = write.log_decay_XSF.exp().mT * state_XDE
    u_X1E = v_X1E if write.beta_XS1 is None else write.beta_XS1 * (v_X1E - k_X1D @ decayed_XDE)
    after_XDE = torch.baddbmm(decayed_XDE, k_X1D.mT, u_X1E)
    return q_XTD.to(state_XDE.dtype) @ after_XDE, after_XDE


class _OneDecay:
    """Chunks whose positions decay all features alike: weights of a chunk's pairs are products times a matrix."""

    def __init__(self, k_XNCD: torch.Tensor, v_XNCE: torch.Tensor, log_XNC1: torch.Tensor, beta_XNC1: Beta) -> None:
        self.k_XNCD, self.v_XNCE, self.beta_XNC1 = k_XNCD, v_XNCE, beta_XNC1
        # Differences of sums are taken in float64: beside a strong decay float32 would lose a weak one.
        self._sums_XNC1 = log_XNC1.to(torch.float32 if log_XNC1.device.type == "mps" else torch.float64).cumsum(2)
        self.from_start_XNC1 = self._sums_XNC1.exp().to(k_XNCD.dtype)
        self.to_end_XNC1 = (self._sums_XNC1[:, :, -1:] - self._sums_XNC1).exp().to(k_XNCD.dtype)

    @cached_property
    def between(self) -> torch.Tensor:
        """Give the decay from each position (row) to each later one (column), zero to earlier ones: [X, N, C, C]."""
        length = self.k_XNCD.shape[2]
        earlier_CC = torch.ones(length, length, dtype=torch.bool, device=self.k_XNCD.device).tril(-1)
        log_XNCC = (self._sums_XNC1.mT - self._sums_XNC1).to(self.k_XNCD.dtype)
        return log_XNCC.masked_fill(earlier_CC, -torch.inf).exp()

    def write(self, state_XDE: torch.Tensor) -> Written:
        """Write all positions; with a beta, chunk by chunk (Yang et al. 2024, section 3.2)."""
        total_XN11 = self.from_start_XNC1[:, :, -1:].expand(-1, self.k_XNCD.shape[1], -1, -1)
        keys_XNCD = self.k_XNCD * self.to_end_XNC1
        if self.beta_XNC1 is None:
            return _sum_up(keys_XNCD, self.v_XNCE, total_XN11, state_XDE)
        asked = self.k_XNCD * self.from_start_XNC1
        each = (x.unbind(1) for x in (self._lacking(self.beta_XNC1), self.v_XNCE, asked, keys_XNCD, total_XN11))
        states, us = [], []
        for lacking_XCC, v_XCE, asked_XCD, k_XCD, total_X11 in zip(*each, strict=True):
            states.append(state_XDE)
            us.append(lacking_XCC @ torch.baddbmm(v_XCE, asked_XCD, state_XDE, alpha=-1))
            state_XDE = torch.baddbmm(total_X11 * state_XDE, k_XCD.mT, us[-1])
        return torch.stack(states, dim=1), torch.stack(us, dim=1), state_XDE

    def read(self, q_XNCD: torch.Tensor, state_XDE: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Read after each position: (y_XNCE, the state after all)."""
        states_XNDE, u_XNCE, after_XDE = self.write(state_XDE)
        weights_XNCC = (self.k_XNCD @ q_XNCD.mT) * self.between
        return weights_XNCC.mT @ u_XNCE + (q_XNCD * self.from_start_XNC1) @ states_XNDE, after_XDE

    def _lacking(self, beta_XNC1: torch.Tensor) -> torch.Tensor:
        """Give (I + tril(diag(beta) K K^T, -1))^-1 diag(beta), with decays: times v - k S, it is u."""
        known_XNCC = (self.k_XNCD @ self.k_XNCD.mT) * self.between * beta_XNC1.mT
        one_CC = torch.eye(self.k_XNCD.shape[2], dtype=self.k_XNCD.dtype, device=self.k_XNCD.device)
        inverse: torch.Tensor = torch.linalg.solve_triangular(
            known_XNCC.mT, one_CC, upper=False, left=False, unitriangular=True
        )
        return inverse * beta_XNC1.mT


class _DecayEach:
    """Chunks in which each feature has decays of its own."""

    def __init__(self, k_XNCD: torch.Tensor, v_XNCE: torch.Tensor, log_XNCD: torch.Tensor) -> None:
        self.k_XNCD, self.v_XNCE, self.decay_XNCD = k_XNCD, v_XNCE, log_XNCD.exp()

    def write(self, state_XDE: torch.Tensor) -> Written:
        """Write all positions."""
        _, _, keys_XNCD, total_XN1D = attend_by_halves(self.k_XNCD, self.k_XNCD, self.v_XNCE, self.decay_XNCD)
        return _sum_up(keys_XNCD, self.v_XNCE, total_XN1D.mT, state_XDE)

    def read(self, q_XNCD: torch.Tensor, state_XDE: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Read after each position: (y_XNCE, the state after all)."""
        y_XNCE, q_XNCD, keys_XNCD, total_XN1D = attend_by_halves(q_XNCD, self.k_XNCD, self.v_XNCE, self.decay_XNCD)
        states_XNDE, _, after_XDE = _sum_up(keys_XNCD, self.v_XNCE, total_XN1D.mT, state_XDE)
        return y_XNCE + q_XNCD @ states_XNDE, after_XDE


def _sum_up(
    keys_XNCD: torch.Tensor, v_XNCE: torch.Tensor, total_XNF1: torch.Tensor, state_XDE: torch.Tensor
) -> Written:
    """Add chunk after chunk what is written into the state, which each decays."""
    states = []
    for added_XDE, total_XF1 in zip((keys_XNCD.mT @ v_XNCE).unbind(1), total_XNF1.unbind(1), strict=True):
        states.append(state_XDE)
        state_XDE = torch.addcmul(added_XDE, total_XF1, state_XDE)
    return torch.stack(states, dim=1), v_XNCE, state_XDE


def _nothing(writes: Writes) -> torch.Tensor:
    """Give the state before the first position."""
    rows, _, features = writes.k_XSD.shape
    sizes = rows, features, writes.v_XSE.shape[2]
    return torch.zeros(sizes, dtype=_wide(writes.k_XSD), device=writes.k_XSD.device)


def _advanced(state_XDE: torch.Tensor, parts: Iterable[Writes]) -> torch.Tensor:
    """Write one part after the other."""
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
    """Give what is written in each run of positions: split, as slices would each have a gradient of full length."""
    k_XSD, v_XSE, log_XSF, beta_XS1 = writes
    logs = [log_XSF] * len(lengths) if log_XSF.shape[1] != k_XSD.shape[1] else log_XSF.split(lengths, dim=1)
    betas = [None] * len(lengths) if beta_XS1 is None else beta_XS1.split(lengths, dim=1)
    return map(Writes, k_XSD.split(lengths, dim=1), v_XSE.split(lengths, dim=1), logs, betas)


def _chunks(part: Writes) -> _OneDecay | _DecayEach:
    """Cut a run into chunks."""
    k_XLD, v_XLE, log_XLF, beta_XL1 = part
    constant = log_XLF.shape[1] != k_XLD.shape[1]
    log_XNCF = log_XLF[:, None].expand(-1, -1, min(CHUNK, k_XLD.shape[1]), -1) if constant else _cut(log_XLF)
    if log_XLF.shape[2] > 1:
        return _DecayEach(_cut(k_XLD), _cut(v_XLE), log_XNCF)
    return _OneDecay(_cut(k_XLD), _cut(v_XLE), log_XNCF, None if beta_XL1 is None else _cut(beta_XL1))


def _cut(x_XLD: torch.Tensor) -> torch.Tensor:
    """Cut whole chunks, or what is left over, which is one: x_XNCD in float32 or wider."""
    return x_XLD.to(_wide(x_XLD)).reshape(len(x_XLD), -1, min(CHUNK, x_XLD.shape[1]), x_XLD.shape[2])


def _wide(x: torch.Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
