"""Random nested expressions, thousands at once: one level of all trees is a set of tensors, from the roots down."""

# B trees, N nodes of a level, M nodes of the level below, O operators of a level, A arguments, T positions
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Generator, Tensor

PAD, DIGIT = 0, 1  # digit d is token DIGIT + d
OPERATORS = ("MIN", "MAX", "MED", "SM")
OPERATOR = DIGIT + 10
CLOSE = OPERATOR + len(OPERATORS)


class Level(NamedTuple):
    """The nodes of a level from left to right: their trees, their parents above, whether they are operators."""

    tree_N: Tensor
    parent_N: Tensor
    operator_N: Tensor


def grow(count: int, generator: Generator, *, depth: int, arguments: int, operators: float) -> list[Level]:
    """Draw the shapes of expressions of at most `depth` levels; the roots are operators.

    An operator has 2 to `arguments` arguments; a share of `operators` of them are operators, except on the last level.
    """
    tree_N = torch.arange(count)
    parent_N, operator_N = torch.zeros_like(tree_N), torch.ones(count, dtype=torch.bool)
    levels = [Level(tree_N, parent_N, operator_N)]
    while len(levels) < depth and operator_N.any():
        open_O = operator_N.nonzero().squeeze(1)
        parent_N = open_O.repeat_interleave(torch.randint(2, arguments + 1, (len(open_O),), generator=generator))
        tree_N = tree_N[parent_N]
        operator_N = torch.rand(len(parent_N), generator=generator) < (operators if len(levels) + 1 < depth else 0)
        levels.append(Level(tree_N, parent_N, operator_N))
    return levels


def lengths(levels: Sequence[Level], count: int) -> Tensor:
    """Count the tokens of each tree [B]: one for a digit, two for an operator and its closing bracket."""
    return sum(
        (level.tree_N.bincount(1 + level.operator_N.double(), minlength=count).long() for level in levels),
        start=torch.zeros(count, dtype=torch.long),
    )


def select(levels: Sequence[Level], keep_B: Tensor) -> list[Level]:
    """Return the chosen trees alone, renumbered."""
    kept: list[Level] = []
    number_B = number_N = keep_B.cumsum(0) - 1
    for level in levels:
        keep_N = keep_B[level.tree_N]
        parent_N = number_N[level.parent_N[keep_N]]
        kept.append(Level(number_B[level.tree_N[keep_N]], parent_N, level.operator_N[keep_N]))
        number_N = keep_N.cumsum(0) - 1
    return kept


def fill(levels: Sequence[Level], generator: Generator) -> tuple[list[Tensor], Tensor]:
    """Draw digits and operators uniformly; return the tokens by level and the values of the roots."""
    tokens: list[Tensor] = []
    value_M = torch.empty(0, dtype=torch.long)
    for level, below in reversed(list(zip(levels, [*levels[1:], None], strict=True))):
        value_N = torch.randint(10, level.tree_N.shape, generator=generator)
        token_N = DIGIT + value_N
        if below is not None:
            kind_O = torch.randint(len(OPERATORS), (int(level.operator_N.sum()),), generator=generator)
            token_N[level.operator_N] = OPERATOR + kind_O
            value_N[level.operator_N] = _applied(kind_O, *_arguments(level, below, value_M))
        tokens.append(token_N)
        value_M = value_N
    return tokens[::-1], value_M


def write(levels: Sequence[Level], tokens: Sequence[Tensor], out_BT: Tensor) -> None:
    """Write each tree into its row: operator, arguments, closing bracket."""
    sizes = _sizes(levels)
    start_N = torch.zeros_like(sizes[0])
    out_BT[levels[0].tree_N, 0] = tokens[0]
    out_BT[levels[0].tree_N, sizes[0] - 1] = CLOSE
    for (above, level), token_N, size_N in zip(pairwise(levels), tokens[1:], sizes[1:], strict=True):
        before_N = size_N.cumsum(0) - size_N
        first_N = torch.zeros_like(above.tree_N).scatter_reduce_(
            0, level.parent_N, before_N, "amin", include_self=False
        )
        start_N = (start_N + 1 - first_N)[level.parent_N] + before_N
        ends_O = level.operator_N
        out_BT[level.tree_N, start_N] = token_N
        out_BT[level.tree_N[ends_O], (start_N + size_N - 1)[ends_O]] = CLOSE


def _sizes(levels: Sequence[Level]) -> list[Tensor]:
    """Count the tokens of each node, including those below it, by level."""
    sizes = [1 + level.operator_N.long() for level in levels]
    for depth in range(len(levels) - 1, 0, -1):
        sizes[depth - 1].index_add_(0, levels[depth].parent_N, sizes[depth])
    return sizes


def _arguments(level: Level, below: Level, value_M: Tensor) -> tuple[Tensor, Tensor]:
    """Return each operator's arguments, ascending and padded with 10 [O, A], and how many it has [O]."""
    row_M = (level.operator_N.cumsum(0) - 1)[below.parent_N]
    count_O = row_M.bincount()
    column_M = torch.arange(len(row_M)) - (count_O.cumsum(0) - count_O)[row_M]
    arguments_OA = torch.full((len(count_O), int(count_O.max())), 10)
    arguments_OA[row_M, column_M] = value_M
    return arguments_OA.sort(dim=1).values, count_O


def _applied(kind_O: Tensor, arguments_OA: Tensor, count_O: Tensor) -> Tensor:
    """Apply each operator to its sorted arguments; a median between two numbers is rounded down."""
    at = [
        arguments_OA.gather(1, place_O[:, None]).squeeze(1)
        for place_O in (count_O - 1, (count_O - 1) // 2, count_O // 2)
    ]
    largest_O, low_O, high_O = at
    total_O = arguments_OA.where(arguments_OA < 10, 0).sum(1)
    results_KO = torch.stack((arguments_OA[:, 0], largest_O, (low_O + high_O) // 2, total_O % 10))
    return results_KO.gather(0, kind_O[None]).squeeze(0)
