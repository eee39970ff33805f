"""Operations of a case's pass, from those of a forward call. A multiply-add is two operations."""

from typing import Literal

from attnbench import Case
from attnbench_variants.blocks.masks import visible_pairs

# Products of matrices in the backward pass for each two in the forward one: every product has two gradients; kernels
# that do not keep the scores make them once more, which is five products for two.
_BACKWARD_OF_TWO = {"kept": 4, "recomputed": 5}


def executed(forward: int, case: Case, *, scores: Literal["kept", "recomputed"] = "kept") -> int:
    """Count what the case's pass executes, given a forward call's matrix products."""
    return executed_with(forward, forward * _BACKWARD_OF_TWO[scores] // 2, case)


def executed_with(forward: int, backward: int, case: Case) -> int:
    """Count what the case's pass executes, given both passes' matrix products."""
    return {"backward": backward, "forward-backward": forward + backward}.get(case.passes, forward)


def executed_pairs(pairs: int, case: Case, *, scores: Literal["kept", "recomputed"] = "recomputed") -> int:
    """Count what attention over so many pairs of a query and a key executes, in each head of each sequence."""
    shape = case.shape
    return executed(4 * shape.batch * shape.heads * pairs * shape.head_dim, case, scores=scores)


def executed_visible(case: Case) -> int:
    """Count what a fused kernel of exact attention executes: the visible pairs, as kernels skip the others."""
    return executed_pairs(visible_pairs(case.mask, queries=case.shape.seq_q, keys=case.shape.seq_k), case)


def executed_densely(case: Case) -> int:
    """Count what is executed where scores are materialised: every pair of query and key, seen or not."""
    return executed_pairs(case.shape.seq_q * case.shape.seq_k, case, scores="kept")
