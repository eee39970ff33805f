"""ListOps against its definition: a parser of the text, and a sampler that grows one expression at a time."""

# N expressions
import random
import statistics
from collections.abc import Iterator
from itertools import takewhile

import pytest
import torch
from scipy.stats import chi2_contingency, ks_2samp
from torch import Generator, Tensor

from attnbench_suites.tasks.expressions import CLOSE, DIGIT, OPERATOR, OPERATORS, PAD
from attnbench_suites.tasks.listops import Listops
from helpers.subtests import as_subtests

WORDS = {PAD: "", CLOSE: "]"}
WORDS |= {DIGIT + digit: str(digit) for digit in range(10)} | {OPERATOR + k: name for k, name in enumerate(OPERATORS)}
RESULTS = {
    "MIN": min,
    "MAX": max,
    "MED": lambda values: int(statistics.median(values)),
    "SM": lambda values: sum(values) % 10,
}
SIZES = [
    {"length": 8, "shortest": 4, "depth": 2, "arguments": 2},
    {"length": 64, "shortest": 16, "depth": 4, "arguments": 5},
    {"length": 300, "shortest": 100, "depth": 10, "arguments": 10},
    {"length": 200, "shortest": 4, "depth": 3, "arguments": 10, "operators": 0.6},
]


def drawn(count: int, **options: object) -> tuple[Tensor, Tensor]:
    return Listops(Listops.Options(**options)).examples("train", count, Generator().manual_seed(0))  # type: ignore[arg-type]


def sentences(inputs_NT: Tensor) -> Iterator[list[str]]:
    """Write expressions out; nothing but padding follows the first padding."""
    for row in inputs_NT.tolist():
        words = [WORDS[token] for token in row]
        sentence = list(takewhile(bool, words))
        assert not any(words[len(sentence) :])
        yield sentence


def value(words: list[str], depth: int = 1) -> tuple[int, int]:
    """Read one expression off the front of the words; return its value, and how deep it goes."""
    word = words.pop(0)
    if word.isdigit():
        return int(word), depth
    found = []
    while words[0] != "]":
        found.append(value(words, depth + 1))
    words.pop(0)
    values, depths = zip(*found, strict=True)
    assert len(values) >= 2
    return RESULTS[word](values), max(depths)


@as_subtests("options", SIZES)
def test_the_answer_is_what_a_parser_of_the_text_evaluates(options: dict[str, float]) -> None:
    inputs_NT, values_N = drawn(300, **options)
    for sentence, answer in zip(sentences(inputs_NT), values_N.tolist(), strict=True):
        words = list(sentence)
        found, depth = value(words)
        assert not words
        assert found == answer
        assert depth <= options["depth"]
        assert options["shortest"] <= len(sentence) <= options["length"]


def arguments_of(sentence: list[str]) -> Iterator[int]:
    """Count the arguments of each operator."""
    counts: list[int] = []
    for word in sentence:
        if word == "]":
            yield counts.pop()
            continue
        if counts:
            counts[-1] += 1
        if not word.isdigit():
            counts.append(0)


def test_every_depth_and_number_of_arguments_occurs_up_to_the_limit() -> None:
    inputs_NT, _ = drawn(300, length=400, shortest=100, depth=5, arguments=7)
    found = list(sentences(inputs_NT))
    assert {count for sentence in found for count in arguments_of(sentence)} == set(range(2, 8))
    assert max(value(list(sentence))[1] for sentence in found) == 5


def grown(rng: random.Random, depth: int, *, deepest: int, arguments: int) -> list[str]:
    """Grow one expression from its root, as the published generator describes it; the root is an operator."""
    if depth > 1 and (depth == deepest or rng.random() >= 0.25):
        return [str(rng.randrange(10))]
    parts = [grown(rng, depth + 1, deepest=deepest, arguments=arguments) for _ in range(rng.randint(2, arguments))]
    return [rng.choice(OPERATORS), *(word for part in parts for word in part), "]"]


def test_lengths_operators_and_answers_are_distributed_as_those_of_a_sampler_of_single_expressions() -> None:
    rng, singles = random.Random(1), []
    while len(singles) < 2000:
        words = grown(rng, 1, deepest=6, arguments=10)
        if 50 <= len(words) <= 250:
            singles.append(words)
    inputs_NT, values_N = drawn(4000, length=250, shortest=50, depth=6, arguments=10)
    ours = list(sentences(inputs_NT))
    assert ks_2samp(list(map(len, ours)), list(map(len, singles))).pvalue > 1e-3
    for words in (OPERATORS, "0123456789"):
        counts = [[sum(sentence.count(word) for sentence in found) for word in words] for found in (ours, singles)]
        assert chi2_contingency(counts).pvalue > 1e-3
    classes = [values_N.tolist(), [value(list(words))[0] for words in singles]]
    assert chi2_contingency([[found.count(digit) for digit in range(10)] for found in classes]).pvalue > 1e-3
    counts = [[count for sentence in found for count in arguments_of(sentence)] for found in (ours, singles)]
    assert chi2_contingency([[found.count(number) for number in range(2, 11)] for found in counts]).pvalue > 1e-3


def test_the_defaults_are_of_the_published_sizes_and_0_and_9_are_the_commonest_answers() -> None:
    options = Listops.Options()
    assert (options.length, options.shortest, options.depth, options.arguments) == (2048, 512, 10, 10)
    inputs_NT, values_N = drawn(1000)
    assert set(values_N.bincount(minlength=10).topk(2).indices.tolist()) == {0, 9}
    assert torch.equal(inputs_NT.unique(), torch.arange(CLOSE + 1))


@as_subtests(
    "options, reason",
    [
        ({"length": 20, "shortest": 21}, "shortest=21 is more than length=20 has positions"),
        ({"length": 900, "shortest": 800, "depth": 3}, "of depth=3 and up to arguments=10 none has so many tokens"),
    ],
)
def test_sizes_that_no_expression_has_are_refused_by_name(options: dict[str, int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        drawn(1, **options)
