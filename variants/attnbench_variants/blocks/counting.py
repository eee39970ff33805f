"""From the operations of a forward call to those of the pass that a case asks for. A multiply-add is two operations."""

from typing import Literal

from attnbench import Case

# Products of matrices in the backward pass for each in the forward one: every product has two gradients; kernels that
# do not keep the scores make them once more, which is five products for two.
_HALVES = {"kept": 4, "recomputed": 5}


def executed(forward: int, case: Case, *, scores: Literal["kept", "recomputed"] = "kept") -> int:
    """Count what the case's pass executes, given a forward call's matrix products."""
    backward = forward * _HALVES[scores] // 2
    return {"backward": backward, "forward-backward": forward + backward}.get(case.passes, forward)
