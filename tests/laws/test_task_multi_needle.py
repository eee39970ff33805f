"""RULER's several needles and variable tracking, each against a scan of its sequences."""

# N examples, T positions
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from scipy.stats import chisquare
from torch import Generator

from attnbench import IGNORE
from attnbench.contracts.task import Task
from attnbench_suites.tasks.multi_needle import MultiNeedle
from attnbench_suites.tasks.variable_tracking import VariableTracking
from helpers.learning import built
from helpers.subtests import as_subtests

NEEDLES = [
    {"length": 64},
    {"length": 3, "needles": 1, "each": 1, "keys": 1, "values": 2, "words": 1},
    {"length": 40, "needles": 5, "each": 1, "keys": 5, "values": 3},
    {"length": 14, "needles": 1, "each": 4, "values": 4},
    {"length": 60, "needles": 4, "queries": 3, "each": 3},
]
CHAINS = [
    {"length": 100},
    {"length": 6, "chains": 2, "hops": 0, "variables": 2, "values": 2, "words": 1},
    {"length": 50, "chains": 2, "hops": 6, "variables": 14},
]


def needles(**options: Any) -> MultiNeedle:
    return MultiNeedle(MultiNeedle.Options(**options))


def chains(**options: Any) -> VariableTracking:
    return VariableTracking(VariableTracking.Options(**options))


def sequences(task: Task, count: int = 200) -> Iterator[tuple[list[int], list[int]]]:
    inputs_NT, targets_NT = task.examples("train", count, Generator().manual_seed(0))
    return zip(inputs_NT.tolist(), targets_NT.tolist(), strict=True)


# Several needles: words, then keys, then values.


@as_subtests("options", NEEDLES)
def test_the_answers_are_the_sorted_values_after_all_occurrences_of_the_keys_at_the_end(
    options: dict[str, int],
) -> None:
    task = needles(**options)
    each, first, queries = task.options.each, task.options.words, task.options.queries
    for inputs, targets in sequences(task):
        context, asked = inputs[: -each * queries], inputs[-each * queries :]
        assert len(set(asked)) == queries
        answers = []
        for key in asked[::each]:
            values = [token for before, token in pairwise(context) if before == key]
            assert len(set(values)) == len(values) == each
            answers += sorted(values)
        assert targets == [IGNORE] * len(context) + answers
        assert asked == [key for key in asked[::each] for _ in range(each)]
        keys = Counter(token for token in context if first <= token < first + task.options.keys)
        assert len(keys) == task.options.needles
        assert set(keys.values()) == {each}


def test_keys_places_and_values_are_drawn_evenly() -> None:
    task = needles(length=20, needles=2, each=2, keys=3, values=4, words=2)
    found = list(sequences(task, 8000))
    for counts, kinds in (
        (Counter(inputs[-1] for inputs, _ in found), 3),
        (Counter(tuple(targets[-2:]) for _, targets in found), 6),
        (Counter(place for inputs, _ in found for place, token in enumerate(inputs[:18]) if 2 <= token < 5), 9),
        (Counter(token for inputs, _ in found for token in inputs if token < 2), 2),
    ):
        assert len(counts) == kinds
        assert chisquare(list(counts.values())).pvalue > 1e-3


@as_subtests(
    "options, reason",
    [
        ({"length": 17, "needles": 4, "each": 2}, "length=17 has no room for needles=4 with each=2 values; use 18"),
        ({"length": 64, "needles": 4, "each": 2, "keys": 3}, "keys=3 are fewer than needles=4, all different"),
        ({"length": 64, "needles": 2, "queries": 3}, "needles=2 are fewer than queries=3, all different"),
        ({"length": 64, "needles": 1, "each": 3, "values": 2}, "values=2 are fewer than each=3, all different"),
    ],
)
def test_needles_that_do_not_fit_are_refused_by_name(options: dict[str, int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        needles(**options)


# Variable tracking: words, then variables, then values.


@as_subtests("options", CHAINS)
def test_running_the_assignments_answers_every_question(options: dict[str, int]) -> None:
    task = chains(**options)
    words, values = task.options.words, task.options.words + task.options.variables
    assigned = task.options.chains * (task.options.hops + 1)
    for inputs, targets in sequences(task):
        memory: dict[int, int] = {}
        tokens = iter(inputs[:-assigned])
        for token in tokens:
            if token >= words:
                source = next(tokens)
                memory[token] = source if source >= values else memory[source]
        assert sorted(inputs[-assigned:]) == sorted(memory)
        assert targets == [IGNORE] * (len(inputs) - assigned) + [memory[name] for name in inputs[-assigned:]]
        assert Counter(memory.values()) == dict.fromkeys(set(memory.values()), task.options.hops + 1)
        assert len(set(memory.values())) == task.options.chains


def test_values_and_the_order_of_questions_are_drawn_evenly_and_chains_are_interleaved() -> None:
    task = chains(length=30, chains=2, hops=1, variables=4, values=3, words=2)
    found = list(sequences(task, 6000))
    for counts, kinds in (
        (Counter(targets[-1] for _, targets in found), 3),
        (Counter(tuple(inputs[-4:]) for inputs, _ in found), 24),
    ):
        assert len(counts) == kinds
        assert chisquare(list(counts.values())).pvalue > 1e-3
    # In four of the six orders of two chains of two, both values come first.
    firsts = Counter(
        tuple(inputs[place + 1] >= 6 for place in range(0, 26, 2) if 2 <= inputs[place] < 6) for inputs, _ in found
    )
    assert firsts[True, True, False, False] / 6000 == pytest.approx(2 / 3, abs=0.03)


@as_subtests(
    "options, reason",
    [
        ({"length": 11, "chains": 2, "hops": 1}, "length=11 has no room for chains=2 of hops=1; use 12 or more"),
        ({"length": 64, "chains": 2, "hops": 1, "variables": 3}, "variables=3 are too few for chains=2 of hops=1"),
        ({"length": 64, "chains": 3, "hops": 0, "values": 2}, "values=2 are too few for chains=3"),
    ],
)
def test_chains_that_do_not_fit_are_refused_by_name(options: dict[str, int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        chains(**options)


def test_the_presets_paper_have_ruler_s_shortest_context() -> None:
    several, tracked = built("multi-needle", preset="paper")[0], built("variable-tracking", preset="paper")[0]
    assert (several.form.length, several.options.needles, several.options.each) == (4096, 4, 4)
    assert (tracked.form.length, tracked.options.hops) == (4096, 4)
