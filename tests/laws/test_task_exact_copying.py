"""Exact copying and the phone book, each against a reader of its sequences."""

# N examples, T positions
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from scipy.stats import chisquare
from torch import Generator

from attnbench import IGNORE
from attnbench.contracts.task import Split, Task
from attnbench_suites.tasks.exact_copying import ExactCopying
from attnbench_suites.tasks.phone_book import PhoneBook
from helpers.subtests import as_subtests

COPYING = [{}, {"letters": 1, "shortest": 1, "alphabet": 2}, {"letters": 9, "shortest": 3, "alphabet": 4}]
BOOKS = [
    {},
    {"entries": 1, "letters": 1, "digits": 1, "alphabet": 2},
    {"entries": 4, "letters": 2, "digits": 3, "alphabet": 2},
    {"entries": 9, "letters": 1, "digits": 2, "alphabet": 12},
]


def copying(**options: Any) -> ExactCopying:
    return ExactCopying(ExactCopying.Options(**options))


def book(**options: Any) -> PhoneBook:
    return PhoneBook(PhoneBook.Options(**options))


def sequences(task: Task, count: int = 200, split: Split = "train") -> Iterator[tuple[list[int], list[int]]]:
    inputs_NT, targets_NT = task.examples(split, count, Generator().manual_seed(0))
    return zip(inputs_NT.tolist(), targets_NT.tolist(), strict=True)


# Exact copying: start 0, turn 1, end 2, blank 3, then letters.


@as_subtests("options", COPYING)
@as_subtests("split", ["train", "test"])
def test_what_stands_before_the_turn_is_what_is_asked_after_it(options: dict[str, int], split: Split) -> None:
    for inputs, targets in sequences(copying(**options), split=split):
        turn = inputs.index(1)
        string = inputs[1:turn]
        assert inputs[0] == 0
        assert min(string) > 3
        asked = [*string, 2]
        assert targets == [IGNORE] * turn + asked + [IGNORE] * (len(inputs) - turn - len(asked))
        # What was asked is given a position later, and blanks follow the end.
        given = inputs[turn + 1 :]
        assert given[: len(asked)] == asked[: len(given)]
        assert set(given[len(asked) :]) <= {3}


@as_subtests("options", COPYING)
def test_training_strings_have_every_length_evenly_and_test_strings_the_longest(options: dict[str, int]) -> None:
    task = copying(**options)
    lengths = Counter(inputs.index(1) - 1 for inputs, _ in sequences(task, 4000))
    assert lengths.keys() == set(range(task.options.shortest, task.options.letters + 1))
    assert len(lengths) == 1 or chisquare(list(lengths.values())).pvalue > 1e-3
    assert {inputs.index(1) - 1 for inputs, _ in sequences(task, split="test")} == {task.options.letters}


def test_letters_are_drawn_evenly() -> None:
    letters = Counter(inputs[place] for inputs, _ in sequences(copying(alphabet=5), 3000) for place in (1, 5))
    assert letters.keys() == set(range(4, 9))
    assert chisquare(list(letters.values())).pvalue > 1e-3


def test_longer_strings_have_all_their_answers_beyond_the_training_length_but_one() -> None:
    task = copying(letters=8)
    for factor in (2, 4, 8):
        longer = task.longer(factor)
        for _, targets in sequences(longer, 20, "test"):
            asked = [place for place, target in enumerate(targets) if target != IGNORE]
            assert len(asked) == 8 * factor + 1
            assert sum(place < task.form.length for place in asked) <= 1


def test_a_shortest_string_above_the_longest_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="shortest=5 is longer than letters=4; lower it"):
        copying(letters=4)


# The phone book: blank 0, then letters, then the ten digits.


def entries(tokens: list[int], task: PhoneBook) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return the names and numbers of a book in order; the last is that which is asked for."""
    letters, width = task.options.letters, task.options.letters + task.options.digits
    shown = tokens[: tokens.index(0)] if 0 in tokens else tokens
    assert set(tokens[len(shown) :]) <= {0}
    parts = [tuple(shown[start : start + width]) for start in range(0, len(shown), width)]
    return [(part[:letters], part[letters:]) for part in parts]


@as_subtests("options", BOOKS)
@as_subtests("split", ["train", "test"])
def test_looking_the_last_name_up_in_the_book_answers_every_question(options: dict[str, int], split: Split) -> None:
    task = book(**options)
    letters, digits = task.options.letters, task.options.digits
    for inputs, targets in sequences(task, split=split):
        *told, (name, given) = entries(inputs, task)
        numbers = dict(told)
        assert len(numbers) == len(told)
        assert all(token <= task.options.alphabet for name in numbers for token in name)
        assert all(token > task.options.alphabet for number in numbers.values() for token in number)
        start = len(told) * (letters + digits) + letters - 1
        after = len(inputs) - start - digits
        assert targets == [IGNORE] * start + list(numbers[name]) + [IGNORE] * after
        assert given == numbers[name][: len(given)]


def test_books_have_every_size_evenly_names_and_digits_are_drawn_evenly_and_each_entry_is_asked_for() -> None:
    task = book(entries=4, letters=2, digits=2, alphabet=3)
    found = [entries(inputs, task) for inputs, _ in sequences(task, 6000)]
    asked = [each for each in found if len(each) == 5]
    for counts, kinds in (
        (Counter(len(each) - 1 for each in found), 4),
        (Counter(each[0][0] for each in found), 9),
        (Counter(each[0][1] for each in found), 100),
        (Counter([name for name, _ in each].index(each[-1][0]) for each in asked), 4),
    ):
        assert len(counts) == kinds
        assert chisquare(list(counts.values())).pvalue > 1e-3
    assert {len(entries(inputs, task)) for inputs, _ in sequences(task, split="test")} == {5}


def test_longer_books_are_asked_beyond_the_training_length_alone() -> None:
    task = book(entries=4, letters=2, digits=2)
    for _, targets in sequences(task.longer(2), 20, "test"):
        assert all(target == IGNORE for target in targets[: task.form.length])
        assert sum(target != IGNORE for target in targets) == 2


def test_more_entries_than_names_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"alphabet=2 makes fewer names of letters=2 than entries=5; raise one"):
        book(entries=5, letters=2, alphabet=2)
