"""The cache of a window in decoding: slots written in turn, so that a step costs the same at any length."""
# B batch, G key/value heads, S keys, D head dimension; R residues of a dilation, W slots

from typing import NamedTuple

import torch
from torch import Tensor

from attnbench_variants.blocks.fused_kernels import Fused

State = tuple[tuple[Tensor, ...], int]  # slots_BGRWD of keys, of values, and how many positions there were


class RingCache(NamedTuple):
    """The first `kept` positions, which are never overwritten, and after them the last `width` of each residue.

    With a dilation d the positions that are equal modulo d have slots of their own. The order of the slots is not that
    of the positions, which attention does not depend on. The next position overwrites one that it does not see, so that
    a step can be repeated.
    """

    width: int
    kept: int = 0
    dilation: int = 1

    def filled(self, *tensors_BGSD: Tensor) -> State:
        """Return the state after the positions so far, of keys and of values."""
        return tuple(self._slots(x_BGSD) for x_BGSD in tensors_BGSD), tensors_BGSD[0].shape[2]

    def with_next(self, state: State, *tensors_BG1D: Tensor) -> tuple[tuple[Tensor, ...], State]:
        """Write the next position's key and value in place; return the keys and values that it sees, and the state."""
        slots, position = state
        residues, residue, slot, seen = self._place(position)
        for slots_BGRWD, x_BG1D in zip(slots, tensors_BG1D, strict=True):
            slots_BGRWD[:, :, residues, slot] = x_BG1D
        return tuple(slots_BGRWD[:, :, residue, :seen] for slots_BGRWD in slots), (slots, position + 1)

    def _place(self, position: int) -> tuple[slice, int, int, int]:
        """Return the residues and the slot to write a position to, the residue to read from, and its slots in use."""
        if position < self.kept:
            return slice(None), 0, position, position + 1
        residue = position % self.dilation
        turn = (position - self._first(residue)) // self.dilation
        return (
            slice(residue, residue + 1),
            residue,
            self.kept + turn % self.width,
            self.kept + min(turn + 1, self.width),
        )

    def _slots(self, x_BGSD: Tensor) -> Tensor:
        batch, groups, length, dim = x_BGSD.shape
        slots = x_BGSD.new_zeros(batch, groups, self.dilation, self.kept + self.width, dim)
        slots[:, :, :, : min(self.kept, length)] = x_BGSD[:, :, None, : self.kept]
        for residue in range(self.dilation):
            own_BGMD = x_BGSD[:, :, self._first(residue) :: self.dilation]
            turns = torch.arange(max(0, own_BGMD.shape[2] - self.width), own_BGMD.shape[2], device=x_BGSD.device)
            slots[:, :, residue, self.kept + turns % self.width] = own_BGMD[:, :, turns]
        return slots

    def _first(self, residue: int) -> int:
        """Return the first position of a residue that is not among the kept."""
        return self.kept + (residue - self.kept) % self.dilation


class DecodesInWindow:
    """Decoding with the cache of a window as the state: a mixin for mechanisms that set which keys it keeps."""

    cache: RingCache
    fused: Fused

    def prefill(self, k_BGSD: Tensor, v_BGSD: Tensor) -> State:
        """Return the keys that later positions see, with their values."""
        return self.cache.filled(k_BGSD, v_BGSD)

    def step(self, q_BH1D: Tensor, k_BG1D: Tensor, v_BG1D: Tensor, state: State) -> tuple[Tensor, State]:
        """Write a key and its value over the one that left the window, and attend: out_BH1D and the new state."""
        (k_BGWD, v_BGWD), after = self.cache.with_next(state, k_BG1D, v_BG1D)
        return self.fused(q_BH1D, k_BGWD, v_BGWD), after
