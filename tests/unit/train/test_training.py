"""Whole trainings: what follows from the seed, when they stop, and which weights they keep."""

import math

import pytest
import torch
from msgspec.structs import replace

from attnbench.contracts.task import Training
from attnbench.contracts.variant import Attention
from attnbench.train.data import draw_splits
from attnbench.train.loop import Trained, Trainer, evaluate, train
from attnbench.train.model import Model
from helpers.subtests import as_subtests
from unit.train.toys import SMALL, Breaks, Sign, model_of, silently, softmax_attention, weights_of


def trained(
    training: Training = SMALL, *, task: Sign | None = None, seed: int = 1, mechanism: Attention = softmax_attention
) -> tuple[Model, Trained]:
    task = task or Sign()
    model = model_of(task.form, training, mechanism=mechanism)
    splits = draw_splits(task, training, seed=0, device="cpu")
    return model, train(Trainer(model, splits, training, seed=seed), report=silently)


def validate(model: Model, training: Training = SMALL) -> object:
    return evaluate(model, draw_splits(Sign(), training, seed=0, device="cpu")["validation"], training.part)


# The seed.


@as_subtests("dropout", [0.0, 0.2])
def test_the_same_seed_gives_the_same_numbers_to_the_last_bit(dropout: float) -> None:
    (first, one), (second, other) = (trained(replace(SMALL, dropout=dropout)) for _ in range(2))
    assert one == other
    assert torch.equal(weights_of(first), weights_of(second))


def test_another_seed_gives_other_numbers() -> None:
    (first, one), (second, other) = (trained(seed=seed) for seed in (1, 2))
    assert one != other
    assert not torch.allclose(weights_of(first), weights_of(second))


# The course.


def test_a_model_learns_what_can_be_learned() -> None:
    _, history = trained(replace(SMALL, steps=100, batch=32, train_examples=500, validation_examples=200))
    assert history.best.score.accuracy > 0.9
    assert not history.diverged


def test_validation_comes_every_so_many_steps_and_after_the_last() -> None:
    _, history = trained(replace(SMALL, steps=12, validate_every=5))
    assert [point.step for point in history.curve] == [5, 10, 12]
    assert history.steps == 12


def test_every_validation_is_told() -> None:
    said: list[str] = []
    splits = draw_splits(Sign(), SMALL, seed=0, device="cpu")
    history = train(Trainer(model_of(Sign.form), splits, SMALL, seed=1), report=said.append)
    expected = [f"step {point.step}/20, accuracy {point.score.accuracy:.2f}" for point in history.curve]
    assert said == expected


def test_training_stops_as_soon_as_a_validation_is_good_enough() -> None:
    long = replace(SMALL, steps=500, batch=32, train_examples=500, validation_examples=200)
    _, history = trained(replace(long, enough=0.9))
    *earlier, last = [point.score.accuracy for point in history.curve]
    assert last >= 0.9 > max(earlier)
    assert history.steps == history.curve[-1].step < 500


# What is learned from lies is the worse the longer it is learned.
GETS_WORSE = replace(SMALL, steps=100, batch=32, train_examples=500, validation_examples=100, validate_every=5)


def test_training_stops_when_patience_is_at_its_end() -> None:
    _, history = trained(replace(GETS_WORSE, patience=3), task=Sign(lie=True))
    assert history.steps == history.best.step + 3 * 5 < 100


def test_the_weights_kept_are_those_of_the_best_validation() -> None:
    model, history = trained(GETS_WORSE, task=Sign(lie=True))
    assert history.steps == 100
    assert history.curve[-1].score.accuracy < 0.1 < history.best.score.accuracy
    assert validate(model, GETS_WORSE) == history.best.score


def test_each_step_of_a_training_in_parts_is_that_of_the_whole_batch() -> None:
    (_, one), (_, other) = (trained(replace(SMALL, accumulate=accumulate)) for accumulate in (1, 4))
    assert [point.step for point in one.curve] == [point.step for point in other.curve]
    for point, same in zip(one.curve, other.curve, strict=True):
        assert same.score.loss == pytest.approx(point.score.loss, rel=1e-3)


# Divergence.


@as_subtests("first, validated", [(1, []), (5, []), (6, [5]), (13, [5, 10])])
def test_a_loss_that_is_no_number_ends_the_training_as_a_result(first: int, validated: list[int]) -> None:
    # Two layers share the mechanism: it is called twice a step.
    model, history = trained(mechanism=Breaks(2 * first - 1))
    assert history.diverged
    assert history.steps == first
    assert [point.step for point in history.curve] == validated
    assert bool(torch.isfinite(weights_of(model)).all())


def test_weights_that_break_in_the_last_step_are_divergence_too() -> None:
    wild = replace(SMALL, steps=1, learning_rate=1e30, warmup=0.0)
    model, history = trained(wild)
    assert history.diverged
    assert history.curve == ()
    assert torch.equal(weights_of(model), weights_of(model_of(Sign.form, wild)))


def test_after_divergence_the_weights_are_those_of_the_best_validation_before() -> None:
    model, history = trained(mechanism=Breaks(2 * 13 - 1))
    assert validate(model) == history.best.score
    assert math.isfinite(history.best.score.loss)
