"""The adding problem against its definition."""

# N examples, T positions
import pytest
import torch
from scipy.stats import kstest
from torch import Generator, Tensor

from attnbench_suites.tasks.adding import Adding
from helpers.subtests import as_subtests


def drawn(count: int, length: int) -> tuple[Tensor, Tensor]:
    return Adding(Adding.Options(length=length)).examples("train", count, Generator().manual_seed(0))


@as_subtests("length", [2, 3, 64, 400])
def test_the_answer_is_the_sum_of_the_two_numbers_that_are_marked(length: int) -> None:
    inputs_NTF, sums_N = drawn(100, length)
    for row, answer in zip(inputs_NTF.tolist(), sums_N.tolist(), strict=True):
        marked = [number for number, mark in row if mark == 1]
        assert len(marked) == 2
        assert [mark for _, mark in row].count(0) == length - 2
        assert sum(marked) == pytest.approx(answer, abs=1e-6)


def test_numbers_are_uniform_and_every_pair_of_positions_is_as_likely_as_any_other() -> None:
    count, length = 12_000, 5
    inputs_NTF, sums_N = drawn(count, length)
    assert kstest(inputs_NTF[..., 0].flatten().numpy(), "uniform").pvalue > 1e-3
    pairs = (inputs_NTF[..., 1].long() * 2 ** torch.arange(length)).sum(1).bincount()
    pairs = pairs[pairs > 0]
    assert len(pairs) == 10
    assert (pairs - count / 10).abs().max() < 4.5 * (count * 0.1 * 0.9) ** 0.5
    assert float(((sums_N - 1) ** 2).mean()) == pytest.approx(1 / 6, abs=0.01)


def test_the_defaults_are_of_the_published_size_and_the_last_position_answers() -> None:
    form = Adding(Adding.Options()).form
    assert (form.length, form.features, form.answer, form.tolerance, form.causal) == (400, 2, "number", 0.04, True)
