"""The layer around a recurrence with a decaying state: forward, prefill and step, the norm, and the count."""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension, X = B * H, Y = rows of states: B * G or X

from abc import ABC, abstractmethod
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch.nn.functional import rms_norm

from attnbench import Case, Support
from attnbench_variants.blocks.flop_counts import executed
from attnbench_variants.blocks.fused_kernels import TORCH
from attnbench_variants.blocks.reach import all_keys
from attnbench_variants.linear.decayed_pairs import products_by_halves
from attnbench_variants.linear.scan import CHUNK, Writes, attend_by_recurrence, state_after, step

Norm = Annotated[
    Literal["head", "none"],
    Meta(description="divide each head's output by its root mean square (head), as the model does, or not"),
]
_EPSILON = 1e-5


class Recurrent(torch.nn.Module, ABC):
    """A state for each head that keys and values write and queries read; a subclass defines how.

    With a norm each head's output is divided by its root mean square and, if `scaled`, multiplied by a learned scale.
    """

    supports = Support(
        full="it is a recurrence: a query reads what tokens up to its own have written, never later ones",
        window="its state cannot forget a key at the moment when it leaves a window; it decays or is overwritten",
        grouped=True,
        growth=1,
    )
    reach = staticmethod(all_keys)
    backend = f"torch-matmul {TORCH}"

    def __init__(self, case: Case, *, normed: bool, scaled: bool = True) -> None:
        super().__init__()
        self._normed = normed
        one_D = torch.ones(case.shape.head_dim, dtype=getattr(torch, case.dtype), device=case.device)
        self.norm_scale = torch.nn.Parameter(one_D) if normed and scaled else None

    @abstractmethod
    def queries(self, q_BHTD: torch.Tensor) -> torch.Tensor:
        """Return the queries as they read the state."""

    @abstractmethod
    def writes(self, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> Writes:
        """Return what the positions write into the states of all Y rows."""

    def forward(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        # Where a model is trained in mixed precision, autocast would take sums over the sequence in bfloat16.
        with torch.autocast(q_BHTD.device.type, enabled=False):
            q_XTD, writes = self.queries(q_BHTD).flatten(0, 1), self.writes(k_BGSD, v_BGSD)
            shared = len(q_XTD) // len(writes.k_XSD)
            y_XTD = attend_by_recurrence(q_XTD, writes.repeated(shared) if shared > 1 else writes)
            return self._normalise(y_XTD).to(q_BHTD.dtype).view(q_BHTD.shape)

    def prefill(self, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Return the state after all tokens so far: state_YDD."""
        return state_after(self.writes(k_BGSD, v_BGSD))

    def step(
        self, q_BH1D: torch.Tensor, k_BG1D: torch.Tensor, v_BG1D: torch.Tensor, state_YDD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one token, and read: out_BH1D and the new state."""
        q_YTD = self.queries(q_BH1D).reshape(len(state_YDD), -1, q_BH1D.shape[3])  # the heads that share a state
        out_YTD, after_YDD = step(q_YTD, self.writes(k_BG1D, v_BG1D), state_YDD)
        return self._normalise(out_YTD).to(q_BH1D.dtype).view(q_BH1D.shape), after_YDD

    def _normalise(self, y_XTD: torch.Tensor) -> torch.Tensor:
        if not self._normed:
            return y_XTD
        scale_D = None if self.norm_scale is None else self.norm_scale.to(y_XTD.dtype)
        return rms_norm(y_XTD, y_XTD.shape[2:], scale_D, _EPSILON)


def operations(
    case: Case, *, decay_per_feature: bool = False, delta: bool = False, of_a_key: int = 0, states: int = 0
) -> int:
    """Count the matrix products and triangular solves that a case's pass executes; in decoding, those of a step.

    `of_a_key`: operations for each key of a key/value head, as gates take. `states` of a sequence: by default as many
    as key/value heads.
    """
    shape, dim, written = case.shape, case.shape.head_dim, 2 if delta else 1
    gates = shape.batch * shape.kv_heads * of_a_key
    if case.passes == "decode":
        return gates + 2 * shape.batch * dim**2 * (written * (states or shape.kv_heads) + shape.heads)
    rows = shape.batch * shape.heads
    across = 2 * dim**2 * (shape.seq_q + written * shape.seq_k)
    read, before = _chunk_lengths(shape.seq_q), _chunk_lengths(shape.seq_k - shape.seq_q)
    if decay_per_feature:
        pairs = rows * sum(products_by_halves(length, dim) for length in read + before)
        return executed(shape.seq_k * gates + rows * across, case) + executed(pairs, case, scores="recomputed")
    within = sum(4 * length**2 * dim for length in read)
    # The products of keys, the inverse of the system that they make, and its product with v - k S.
    within += sum(4 * length**2 * dim + length**3 for length in read + before) if delta else 0
    return executed(shape.seq_k * gates + rows * (across + within), case)


def _chunk_lengths(positions: int) -> list[int]:
    chunks, rest = divmod(positions, CHUNK)
    return [CHUNK] * chunks + [rest] * (rest > 0)
