"""Recurrences with a state that decays: each position writes into a matrix, and queries read it; in chunks or steps."""
# X rows that share nothing (B * H), T queries, S keys, D features of a key, E of a value, F decays of a position (D, or
# 1 for all features), N chunks of C positions, 1 in a shape: the same for all

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple, TypeAlias

import torch

from attnbench_variants.blocks.halves import attend_by_halves

CHUNK = 64  # of 32, 64 and 128 the fastest on a CPU
# Elements of a run's keys on a CPU, so that what is made of them stays in the cache: the fastest of 2**15 to 2**18.
_CACHED_ELEMENTS = 2**17


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
    becomes nothing, and nothing else does.
    """
    before = writes.k_XSD.shape[1] - q_XTD.shape[1]
    state_XDE, parts = state_after(writes, positions=before), []
    for run, chunk in _runs(q_XTD, writes):
        chunks = _chunks(writes, slice(before + run.start, before + run.stop), chunk)
        y_XNCE, state_XDE = chunks.read(_cut(q_XTD[:, run], chunk), state_XDE)
        parts.append(y_XNCE.flatten(1, 2))
    return torch.cat(parts, dim=1)


def state_after(writes: Writes, *, positions: int) -> torch.Tensor:
    """Give the state after the first `positions`: state_XDE in float32 or wider, zeros after none."""
    k_XSD, v_XSE = writes.k_XSD[:, :positions], writes.v_XSE
    sizes = len(k_XSD), k_XSD.shape[2], v_XSE.shape[2]
    state_XDE = torch.zeros(sizes, dtype=_wide(k_XSD), device=k_XSD.device)
    for run, chunk in _runs(k_XSD, writes):
        state_XDE = _chunks(writes, run, chunk).write(state_XDE)[-1]
    return state_XDE


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
        """Write all positions; with a beta, chunk by chunk (Yang et al. 2024, section 3.2: T U = beta V)."""
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


def _chunks(writes: Writes, run: slice, chunk: int) -> _OneDecay | _DecayEach:
    """Cut a run of what is written into chunks."""
    k_XNCD, v_XNCE = _cut(writes.k_XSD[:, run], chunk), _cut(writes.v_XSE[:, run], chunk)
    log_XSF = writes.log_decay_XSF
    constant = log_XSF.shape[1] == 1
    log_XNCF = log_XSF[:, None].expand(-1, -1, chunk, -1) if constant else _cut(log_XSF[:, run], chunk)
    if log_XSF.shape[2] > 1:
        return _DecayEach(k_XNCD, v_XNCE, log_XNCF)
    beta = writes.beta_XS1
    return _OneDecay(k_XNCD, v_XNCE, log_XNCF, None if beta is None else _cut(beta[:, run], chunk))


def _cut(x_XSD: torch.Tensor, chunk: int) -> torch.Tensor:
    return x_XSD.to(_wide(x_XSD)).reshape(len(x_XSD), -1, chunk, x_XSD.shape[2])


def _wide(x: torch.Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _runs(x_XSD: torch.Tensor, writes: Writes) -> Iterator[tuple[slice, int]]:
    """Cut positions into runs of whole chunks, and what is left: (the run, the length of its chunks)."""
    chunks, rest = divmod(x_XSD.shape[1], CHUNK)
    tracked = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (x_XSD, *writes))
    # A run that stays in the cache is fastest on a CPU; a GPU wants all chunks at once, and so does autograd.
    in_cache = max(1, _CACHED_ELEMENTS // (CHUNK * len(x_XSD) * x_XSD.shape[2]))
    length = chunks if tracked or x_XSD.device.type != "cpu" else in_cache
    for first in range(0, chunks, max(1, length)):
        yield slice(first * CHUNK, min(first + length, chunks) * CHUNK), CHUNK
    if rest:
        yield slice(chunks * CHUNK, x_XSD.shape[1]), rest
