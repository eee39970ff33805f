"""From the operations of a forward call to those of the pass that a case asks for. A multiply-add is two operations."""

from typing import Literal

from attnbench import Case
from attnbench_variants.blocks.masks import visible_pairs

# Products of matrices in the backward pass for each in the forward one: every product has two gradients; kernels that
# do not keep the scores make them once more, which is five products for two.
_HALVES = {"kept": 4, "recomputed": 5}


def executed(forward: int, case: Case, *, scores: Literal["kept", "recomputed"] = "kept") -> int:
    """Count what the case's pass executes, given a forward call's matrix products."""
    return executed_with(forward, forward * _HALVES[scores] // 2, case)


def executed_with(forward: int, backward: int, case: Case) -> int:
    """Count what the case's pass executes, given both passes' matrix products."""
    return {"backward": backward, "forward-backward": forward + backward}.get(case.passes, forward)


def executed_fused(case: Case) -> int:
    """Count what a fused kernel of exact attention executes: the visible pairs, as kernels skip the others."""
    shape = case.shape
    pairs = visible_pairs(case.mask, queries=shape.seq_q, keys=shape.seq_k)
    return executed(4 * shape.batch * shape.heads * pairs * shape.head_dim, case, scores="recomputed")


def executed_densely(case: Case) -> int:
    """Count what is executed where scores are materialised: every pair of query and key, seen or not."""
    shape = case.shape
    return executed(4 * shape.batch * shape.heads * shape.seq_q * shape.seq_k * shape.head_dim, case)
