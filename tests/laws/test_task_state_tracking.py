"""Running products of permutations, against products of permutation matrices."""

# N examples, T positions
from math import factorial
from typing import Any

import numpy as np
from scipy.stats import chisquare
from torch import Generator

from attnbench_suites.tasks.state_tracking import StateTracking
from helpers.learning import built
from helpers.subtests import as_subtests

GROUPS = [
    {"group": "S2", "length": 40},
    {"group": "S3", "length": 16},
    {"group": "S4", "length": 9, "moved": 3},
    {"group": "S5", "length": 32},
    {"group": "S5", "length": 12, "moved": 2},
]


def drawn(count: int, **options: Any) -> tuple[StateTracking, np.ndarray, np.ndarray]:
    task = StateTracking(StateTracking.Options(**options))
    inputs, targets = task.examples("train", count, Generator().manual_seed(0))
    return task, inputs.numpy(), targets.numpy()


def unranked(number: int, elements: int) -> list[int]:
    """Return the permutation of a number in lexicographic order, by its factorial digits."""
    left, digits = list(range(elements)), []
    for place in range(elements - 1, -1, -1):
        digit, number = divmod(number, factorial(place))
        digits.append(left.pop(digit))
    return digits


def ranked(permutation: list[int]) -> int:
    """Return the number of a permutation: how many smaller elements come after each, in factorial digits."""
    size = len(permutation)
    return sum(
        sum(later < each for later in permutation[place:]) * factorial(size - 1 - place)
        for place, each in enumerate(permutation)
    )


def matrices(elements: int, moved: int) -> list[np.ndarray]:
    """Return the matrix of each token: column i has its one in the row of the place to which element i goes."""
    every = [np.array(unranked(number, elements)) for number in range(factorial(elements))]
    kept = [one for one in every if (one != np.arange(elements)).sum() <= moved]
    return [np.eye(elements, dtype=int)[:, one] for one in kept]


def products(tokens: np.ndarray, options: dict[str, Any]) -> list[int]:
    """Return the number of the running product at each position."""
    of_token = matrices(int(options["group"][1]), options.get("moved", 5))
    product, numbers = np.eye(len(of_token[0]), dtype=int), []
    for token in tokens:
        product = of_token[token] @ product
        numbers.append(ranked(product.argmax(axis=0).tolist()))
    return numbers


@as_subtests("options", GROUPS)
def test_multiplying_matrices_gives_every_answer(options: dict[str, Any]) -> None:
    _, sequences, targets = drawn(60, **options)
    assert [products(sequence, options) for sequence in sequences] == targets.tolist()


def test_two_elements_are_parity() -> None:
    _, sequences, targets = drawn(200, group="S2", length=20)
    assert (targets == sequences.cumsum(axis=1) % 2).all()


def test_tokens_and_answers_are_drawn_evenly() -> None:
    _, sequences, targets = drawn(6000, group="S3", length=8)
    for values in (sequences[:, 0], sequences[:, 7], targets[:, 0], targets[:, 7]):
        assert chisquare(np.bincount(values, minlength=6)).pvalue > 1e-3


@as_subtests("group, moved, tokens", [("S5", 5, 120), ("S5", 2, 11), ("S5", 3, 31), ("S3", 2, 4), ("S2", 2, 2)])
def test_the_tokens_are_the_permutations_that_move_few_enough(group: str, moved: int, tokens: int) -> None:
    task, *_ = drawn(1, group=group, moved=moved)
    assert (task.form.vocabulary, task.form.outputs) == (tokens, factorial(int(group[1])))


def test_the_preset_paper_is_trained_on_32_permutations_of_s5_and_tested_on_256() -> None:
    task, training = built("state-tracking", preset="paper")
    assert (task.form.length, task.form.vocabulary, training.beyond * task.form.length) == (32, 120, 256)


def test_longer_sequences_are_of_the_same_group() -> None:
    task, *_ = drawn(1, group="S4", moved=3, length=8)
    longer = task.longer(4)
    assert (longer.form.length, longer.tokens) == (32, task.tokens)
