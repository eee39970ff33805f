"""Memorization against a dictionary read from other sequences."""

# N examples, T positions
from collections import Counter
from typing import Any

from scipy.stats import chisquare
from torch import Generator

from attnbench import IGNORE
from attnbench.contracts.task import Split
from attnbench_suites.tasks.memorization import Memorization
from helpers.learning import built
from helpers.subtests import as_subtests

SIZES = [{}, {"length": 4, "vocabulary": 5}, {"length": 10, "vocabulary": 64, "facts": 3}]


def rows(count: int, *, split: Split = "train", seed: int = 0, **options: Any) -> list[tuple[list[int], list[int]]]:
    task = Memorization(Memorization.Options(**options))
    inputs_NT, targets_NT = task.examples(split, count, Generator().manual_seed(seed))
    return list(zip(inputs_NT.tolist(), targets_NT.tolist(), strict=True))


def facts(found: list[tuple[list[int], list[int]]]) -> set[tuple[int, int]]:
    """Return the keys with the answers at the markers after them."""
    return {pair for inputs, targets in found for pair in zip(inputs[::2], targets[1::2], strict=True)}


@as_subtests("options", SIZES)
def test_what_training_sequences_say_of_a_key_answers_every_test_question(options: dict[str, Any]) -> None:
    known = dict(facts(rows(3000, **options)))
    for inputs, targets in rows(200, split="test", seed=1, **options):
        assert [known[key] for key in inputs[::2]] == targets[1::2]
        assert set(targets[::2]) == {IGNORE}


@as_subtests("options", SIZES)
def test_no_sequence_shows_a_value_and_each_key_has_one_of_its_own(options: dict[str, Any]) -> None:
    found = rows(3000, **options)
    vocabulary = options.get("vocabulary", 256)
    keys, values = zip(*facts(found), strict=True)
    assert set(keys) == set(range((vocabulary - 1) // 2))
    assert len(set(keys)) == len(keys) == len(set(values))
    assert all((vocabulary - 1) // 2 <= value < vocabulary - 1 for value in values)
    assert {token for inputs, _ in found for token in inputs[1::2]} == {vocabulary - 1}


def test_facts_follow_from_their_own_seed_and_keys_are_drawn_evenly() -> None:
    assert facts(rows(3000)) == facts(rows(3000, seed=7)) != facts(rows(3000, facts=1))
    counts = Counter(key for inputs, _ in rows(3000, vocabulary=21) for key in inputs[::2])
    assert len(counts) == 10
    assert chisquare(list(counts.values())).pvalue > 1e-3


def test_the_preset_paper_of_memorization_has_the_published_sizes() -> None:
    task, training = built("memorization", preset="paper")
    assert (task.options.length, task.options.vocabulary, training.train_examples) == (32, 256, 256)
