"""Associative recall with rewritten keys, against a dictionary that is written in order."""

# N examples, T positions
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from scipy.stats import chisquare
from torch import Generator

from attnbench import IGNORE
from attnbench_suites.tasks.mqar_forgetting import MqarForgetting
from helpers.subtests import as_subtests

SIZES = [
    {},
    {"length": 4, "keys": 1, "writes": 1, "vocabulary": 4},
    {"length": 30, "keys": 2, "writes": 14, "vocabulary": 8},
    {"length": 256, "keys": 16, "writes": 64, "vocabulary": 64},
]


def forgetting(**options: Any) -> MqarForgetting:
    return MqarForgetting(MqarForgetting.Options(**options))


def sequences(task: MqarForgetting, count: int = 200) -> Iterator[tuple[list[int], list[int]]]:
    inputs_NT, targets_NT = task.examples("train", count, Generator().manual_seed(0))
    return zip(inputs_NT.tolist(), targets_NT.tolist(), strict=True)


@as_subtests("options", SIZES)
def test_a_dictionary_written_in_order_answers_every_question(options: dict[str, int]) -> None:
    task = forgetting(**options)
    end = 2 * task.options.writes
    for inputs, targets in sequences(task):
        memory = dict(zip(inputs[:end:2], inputs[1:end:2], strict=True))  # a later value replaces an earlier one
        assert targets == [IGNORE] * end + [memory.get(token, IGNORE) for token in inputs[end:]]
        assert sorted(token for token in inputs[end:] if token) == sorted(memory)
        assert len(memory) == task.options.keys


@as_subtests("options", SIZES)
def test_keys_are_the_lower_half_of_the_vocabulary_and_values_the_upper(options: dict[str, int]) -> None:
    task = forgetting(**options)
    half, end = task.options.vocabulary // 2, 2 * task.options.writes
    for inputs, _ in sequences(task):
        assert all(0 < key < half for key in inputs[:end:2])
        assert all(half <= value < task.options.vocabulary for value in inputs[1:end:2])


def test_which_write_counts_how_often_keys_are_written_and_where_they_are_asked_is_drawn_evenly() -> None:
    task = forgetting(length=16, keys=2, writes=4, vocabulary=8)
    found = list(sequences(task, 9000))
    orders = Counter(tuple(inputs[0] == key for key in inputs[:8:2]) for inputs, _ in found)
    # Two of four writes are sure to reach a key each, the others either: 1 of 4 keys has 3 writes, and half have 2.
    by_count = Counter(sum(order) for order in orders.elements())
    assert by_count[2] / 9000 == pytest.approx(0.5, abs=0.03)
    values = Counter(target for _, targets in found for target in targets if target != IGNORE)
    places = Counter(place for _, targets in found for place, target in enumerate(targets) if target != IGNORE)
    for counts, kinds in ((values, 4), (places, 8)):
        assert len(counts) == kinds
        assert chisquare(list(counts.values())).pvalue > 1e-3


def test_a_longer_sequence_has_more_writes_to_as_many_keys() -> None:
    longer = forgetting(length=32, keys=4, writes=8, vocabulary=32).longer(4)
    assert (longer.form.length, longer.options.keys, longer.options.writes) == (128, 4, 32)


@as_subtests(
    "options, reason",
    [
        ({"keys": 4, "writes": 3}, "writes=3 do not reach all keys=4; raise writes"),
        ({"length": 19}, "length=19 has no room for writes=8 and to ask for keys=4; use 20 or more"),
        ({"vocabulary": 9}, "vocabulary=9 has too few keys for keys=4"),
    ],
)
def test_sizes_that_do_not_fit_one_another_are_refused_by_name(options: dict[str, int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        forgetting(**options)
