"""Selective copying and the needle in a haystack, each against a scan of its sequences."""

# N examples, T positions
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest
from scipy.stats import chisquare
from torch import Generator

from attnbench import IGNORE
from attnbench.contracts.task import Split, Task
from attnbench_suites.tasks.copying import BLANK, Copying
from attnbench_suites.tasks.needle import Needle
from helpers.subtests import as_subtests


def copying(**options: Any) -> Copying:
    return Copying(Copying.Options(**options))


def needle(**options: Any) -> Needle:
    return Needle(Needle.Options(**options))


def sequences(task: Task, count: int = 200, split: Split = "train") -> Iterator[tuple[list[int], list[int]]]:
    inputs_NT, targets_NT = task.examples(split, count, Generator().manual_seed(0))
    return zip(inputs_NT.tolist(), targets_NT.tolist(), strict=True)


# Selective copying.

COPYING = [
    {"length": 2, "tokens": 1, "vocabulary": 4},
    {"length": 8, "tokens": 4, "vocabulary": 5},
    {"length": 33, "tokens": 4, "vocabulary": 10},
    {},
]


@as_subtests("options", COPYING)
def test_tokens_that_are_not_blank_are_repeated_in_order_at_the_markers(options: dict[str, int]) -> None:
    task = copying(**options)
    kept, marker = task.options.tokens, task.options.vocabulary - 1
    for inputs, targets in sequences(task, 50):
        shown, asked = inputs[:-kept], inputs[-kept:]
        assert asked == [marker] * kept
        assert marker not in shown
        assert [token for token in shown if token != BLANK] == targets[-kept:]
        assert set(targets[:-kept]) <= {IGNORE}


def test_every_choice_of_places_and_every_token_is_as_likely_as_any_other() -> None:
    task = copying(length=8, tokens=3, vocabulary=6)
    found = list(sequences(task, 10_000))
    places = Counter(tuple(place for place, token in enumerate(inputs[:5]) if token) for inputs, _ in found)
    assert places.keys() == set(combinations(range(5), 3))
    assert chisquare(list(places.values())).pvalue > 1e-3
    triples = Counter(tuple(targets[-3:]) for _, targets in found)
    assert len(triples) == 4**3
    assert chisquare(list(triples.values())).pvalue > 1e-3


def test_the_defaults_are_the_published_sizes() -> None:
    options = Copying.Options()
    assert (options.length, options.tokens, options.vocabulary, options.causal) == (4096, 16, 16, True)


def test_more_tokens_than_half_the_sequence_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"length=7 has no room to show tokens=4 and to answer; use twice as many"):
        copying(length=7, tokens=4)


# The needle.

NEEDLE = [
    {"length": 3, "needles": 1, "keys": 1, "values": 2, "words": 1},
    {"length": 9, "needles": 4, "keys": 4, "values": 3},
    {"length": 64, "needles": 4, "keys": 16, "words": 32},
    {"length": 1000, "needles": 8, "keys": 8},
]


@as_subtests("options", NEEDLE)
def test_the_answer_is_the_word_after_the_key_that_stands_at_the_end(options: dict[str, int]) -> None:
    task = needle(**options)
    first, last = task.options.words, task.options.words + task.options.keys - 1
    for inputs, targets in sequences(task, 100):
        context, asked = inputs[:-1], inputs[-1]
        keys = [token for token in context if first <= token <= last]
        values = [token for token in context if token > last]
        assert len(keys) == len(set(keys)) == task.options.needles
        assert context.count(asked) == 1
        assert targets == [IGNORE] * (len(inputs) - 1) + [context[context.index(asked) + 1]]
        assert values == [context[place + 1] for place, token in enumerate(context) if token in keys]


def test_the_requested_key_its_place_and_its_value_are_drawn_evenly() -> None:
    task = needle(length=17, needles=3, keys=5, values=6, words=4)
    found = [(inputs, targets[-1]) for inputs, targets in sequences(task, 8000)]
    for drawn in (
        Counter(inputs[-1] for inputs, _ in found),
        Counter(inputs.index(inputs[-1]) for inputs, _ in found),
        Counter(answer for _, answer in found),
        Counter(token for inputs, _ in found for token in inputs[:-1] if token < 4),
        Counter(sorted(token for token in inputs[:-1] if 4 <= token < 9).index(inputs[-1]) for inputs, _ in found),
    ):
        assert len(drawn) in (3, 4, 5, 6, 8)
        assert chisquare(list(drawn.values())).pvalue > 1e-3


@as_subtests("depth, place", [(0, 0), (50, 32), (100, 62)])
def test_depth_fixes_where_the_test_looks_and_changes_nothing_else(depth: int, place: int) -> None:
    plain, task = (needle(length=65, needles=4, **given) for given in ({}, {"depth": depth}))
    for inputs, _ in sequences(task, split="test"):
        assert inputs.index(inputs[-1]) == place
    others = Counter(
        inputs.index(token) for inputs, _ in sequences(task, 2000, split="test") for token in not_asked_for(inputs)
    )
    assert len(others) == 31
    assert chisquare(list(others.values())).pvalue > 1e-3
    for split in ("train", "validation"):
        assert list(sequences(task, split=split)) == list(sequences(plain, split=split))  # type: ignore[arg-type]


def not_asked_for(inputs: list[int]) -> Iterator[int]:
    """List the keys that are not asked for."""
    return (token for token in inputs[:-1] if 64 <= token < 128 and token != inputs[-1])


@as_subtests(
    "options, reason",
    [
        ({"length": 8, "needles": 4}, "length=8 has no room for needles=4; use 9 or more"),
        ({"length": 64, "needles": 4, "keys": 3}, "keys=3 are too few for needles=4"),
    ],
)
def test_sizes_that_do_not_fit_one_another_are_refused_by_name(options: dict[str, int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        needle(**options)
