"""In-context recall, plain, noisy and fuzzy, each against a reader that looks keys up as it goes."""

# N examples, T positions
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import pytest
from scipy.stats import chisquare
from torch import Generator

from attnbench import IGNORE
from attnbench.contracts.task import Split, Task
from attnbench_suites.tasks.fuzzy_in_context_recall import FuzzyInContextRecall
from attnbench_suites.tasks.in_context_recall import InContextRecall
from attnbench_suites.tasks.noisy_in_context_recall import NoisyInContextRecall
from helpers.learning import built
from helpers.subtests import as_subtests

PLAIN = [{}, {"length": 4, "vocabulary": 4}, {"length": 30, "vocabulary": 7}]
NOISY = [
    {"vocabulary": 32, "noise_vocabulary": 16, "noise": 0.2},
    {"length": 20, "vocabulary": 9, "noise_vocabulary": 3, "noise": 0.8},
]
FUZZY = [
    {},
    {"length": 40, "vocabulary": 9, "key_tokens": 2, "value_tokens": 1},
    {"length": 64, "vocabulary": 64, "key_tokens": 1, "value_tokens": 3},
]


def recall(**options: Any) -> InContextRecall:
    return InContextRecall(InContextRecall.Options(**options))


def fuzzy(**options: Any) -> FuzzyInContextRecall:
    return FuzzyInContextRecall(FuzzyInContextRecall.Options(**options))


def sequences(task: Task, count: int = 200, split: Split = "train") -> Iterator[tuple[list[int], list[int]]]:
    inputs_NT, targets_NT = task.examples(split, count, Generator().manual_seed(0))
    return zip(inputs_NT.tolist(), targets_NT.tolist(), strict=True)


def pairs(inputs: list[int]) -> list[list[int]]:
    return [inputs[place : place + 2] for place in range(0, len(inputs), 2)]


# Plain and noisy.


@as_subtests("options", [*PLAIN, *NOISY])
def test_remembering_the_values_of_keys_answers_every_question(options: dict[str, Any]) -> None:
    task = recall(**options)
    keys = (task.options.vocabulary - task.options.noise_vocabulary) // 2
    for inputs, targets in sequences(task):
        known: dict[int, int] = {}
        expected = []
        for key, *value in pairs(inputs):
            is_known = key in known
            expected += [known[key] if is_known else IGNORE, IGNORE]
            assert not (is_known and value) or value == [known[key]]
            if key < keys and value:
                known[key] = value[0]
        assert targets == expected[:-1]
        assert targets[-1] != IGNORE


@as_subtests("options", PLAIN)
def test_keys_values_and_the_repeated_one_are_drawn_evenly(options: dict[str, Any]) -> None:
    task = recall(**options)
    half, count = task.options.vocabulary // 2, 6000
    found = [inputs for inputs, _ in sequences(task, count)]
    firsts = Counter(inputs[0] for inputs in found), Counter(inputs[1] for inputs in found)
    for counts, tokens in zip(firsts, (range(half), range(half, task.options.vocabulary)), strict=True):
        assert counts.keys() == set(tokens)
        assert chisquare(list(counts.values())).pvalue > 1e-3


def test_an_answer_is_any_value_as_often_as_another_and_knows_nothing_of_its_key() -> None:
    answers = Counter(
        (key, answer)
        for inputs, targets in sequences(recall(vocabulary=8), 6000)
        for key, answer in [(inputs[-1], targets[-1])]
    )
    assert len(answers) == 16
    assert chisquare(list(answers.values())).pvalue > 1e-3


@as_subtests("options", NOISY)
def test_noise_has_its_share_of_the_pairs_and_tokens_of_its_own(options: dict[str, Any]) -> None:
    task = recall(**options)
    first = task.options.vocabulary - task.options.noise_vocabulary
    noisy, every = 0, 0
    for inputs, targets in sequences(task, 2000):
        for place, pair in enumerate(pairs(inputs)[:-1]):
            assert len({token >= first for token in pair}) == 1
            noisy += pair[0] >= first
            every += 1
            assert targets[2 * place] == IGNORE or pair[0] < first
        assert any(token < first for token in inputs[:-1])
        assert inputs[-1] < first
    pairs_before = len(pairs(inputs)) - 1
    assert noisy / every == pytest.approx(options["noise"] * (pairs_before - 1) / pairs_before, abs=0.02)


def test_the_presets_paper_have_the_published_sizes() -> None:
    plain, training = built("in-context-recall", preset="paper")
    noisy, _ = built("noisy-in-context-recall", preset="paper")
    assert isinstance(noisy, NoisyInContextRecall)
    assert (plain.options.length, plain.options.vocabulary, plain.options.noise) == (128, 16, 0)
    assert (noisy.options.vocabulary, noisy.options.noise_vocabulary, noisy.options.noise) == (32, 16, 0.2)
    assert (training.train_examples, training.test_examples, training.batch) == (12_800, 1280, 128)
    assert training.steps * training.batch == 200 * training.train_examples


# Fuzzy.


def motifs(tokens: list[int], task: FuzzyInContextRecall) -> list[tuple[int, ...]]:
    """Return runs of key tokens and of value tokens in turn, after the padding."""
    padding, keys = task.options.vocabulary - 1, (task.options.vocabulary - 1) // 2
    shown = [token for token in tokens if token != padding]
    assert tokens == [padding] * (len(tokens) - len(shown)) + shown
    return [tuple(run) for _, run in groupby(shown, key=lambda token: token < keys)]


@as_subtests("options", FUZZY)
@as_subtests("split", ["train", "test"])
def test_remembering_the_values_of_runs_of_key_tokens_answers_every_question(
    options: dict[str, Any], split: Split
) -> None:
    task = fuzzy(**options)
    for inputs, targets in sequences(task, split=split):
        runs = motifs([*inputs, targets[-1]], task)
        known: dict[tuple[int, ...], tuple[int, ...]] = {}
        expected = [IGNORE] * (len(inputs) - sum(map(len, runs)) + 1)
        for key, value in zip(runs[::2], runs[1::2], strict=True):
            expected += [IGNORE] * (len(key) - 1)
            expected += known.get(key, (IGNORE,) * len(value))
            expected.append(IGNORE)
            assert known.setdefault(key, value) == value
        assert targets == expected[:-1]
        assert targets[-1] != IGNORE


@as_subtests("options", FUZZY)
def test_motifs_have_every_size_and_different_tokens_and_test_keys_the_largest(options: dict[str, Any]) -> None:
    task = fuzzy(**options)
    for split, least in (("train", 1), ("test", task.options.key_tokens)):
        runs = [motifs(inputs[:-1], task)[:4] for inputs, _ in sequences(task, 3000, split)]  # type: ignore[arg-type]
        for places, sizes in (((0, 2), (least, task.options.key_tokens)), ((1, 3), (1, task.options.value_tokens))):
            counts = Counter(len(run[place]) for run in runs for place in places)
            assert counts.keys() == set(range(sizes[0], sizes[1] + 1))
            assert all(len(set(run[place])) == len(run[place]) for run in runs for place in places)


def test_the_preset_paper_of_the_fuzzy_task_has_the_published_sizes() -> None:
    options = built("fuzzy-in-context-recall", preset="paper")[0].options
    assert (options.length, options.vocabulary, options.key_tokens, options.value_tokens) == (128, 16, 3, 3)


# Refusals.


@as_subtests(
    "options, reason",
    [
        ({"vocabulary": 8, "noise_vocabulary": 6}, "noise_vocabulary=6 leaves too few keys and values of vocabulary=8"),
        ({"noise": 0.1}, "noise=0.1 has no tokens to draw from; set noise_vocabulary"),
    ],
)
def test_noise_that_does_not_fit_is_refused_by_name(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        recall(**options)


@as_subtests(
    "options, reason",
    [
        ({"vocabulary": 6}, "vocabulary=6 has too few tokens for key_tokens=3"),
        ({"length": 17}, "length=17 has no room for pairs to repeat; use 18 or more"),
    ],
)
def test_motifs_that_do_not_fit_are_refused_by_name(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        fuzzy(**options)
