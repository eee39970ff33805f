"""Compression: every token is asked for, and only the last state may answer."""

# N examples, T positions, E width
from collections import Counter

import torch
from scipy.stats import chisquare
from torch import Generator

from attnbench import IGNORE
from attnbench_suites.tasks.compression import Compression
from helpers.learning import built, model_of
from helpers.subtests import as_subtests


@as_subtests("length, vocabulary", [(32, 16), (2, 3), (9, 40)])
def test_reading_the_sequence_answers_every_question_but_the_marker(length: int, vocabulary: int) -> None:
    task = Compression(Compression.Options(length=length, vocabulary=vocabulary))
    inputs_NT, targets_NT = task.examples("train", 100, Generator().manual_seed(0))
    for inputs, targets in zip(inputs_NT.tolist(), targets_NT.tolist(), strict=True):
        *tokens, marker = inputs
        assert (tokens, marker) == (targets[:-1], vocabulary - 1)
        assert targets[-1] == IGNORE
        assert marker not in tokens


def test_tokens_are_drawn_evenly_at_each_position() -> None:
    inputs_NT, _ = Compression(Compression.Options(length=3, vocabulary=6)).examples("test", 5000, Generator())
    counts = Counter(map(tuple, inputs_NT[:, :2].tolist()))
    assert len(counts) == 25
    assert chisquare(list(counts.values())).pvalue > 1e-3


def test_the_answers_are_a_function_of_the_last_state_alone() -> None:
    task, training = built("compression")
    model = model_of("vanilla", task, training).eval()
    targets_NT = torch.zeros(2, task.form.length, dtype=torch.long)
    x_BTE = torch.randn(2, task.form.length, training.width)
    other_BTE = torch.randn_like(x_BTE)
    other_BTE[:, -1] = x_BTE[:, -1]
    answers, again = model.answers(x_BTE, targets_NT)[0], model.answers(other_BTE, targets_NT)[0]
    assert torch.equal(answers, again)
    other_BTE[:, -1] += 1 + torch.randn(training.width)
    assert not torch.isclose(answers, model.answers(other_BTE, targets_NT)[0]).all(dim=1).any()


def test_the_preset_paper_of_compression_has_the_published_sizes() -> None:
    task, training = built("compression", preset="paper")
    assert (task.form.length, task.form.vocabulary, training.train_examples) == (32, 16, 12_800)
