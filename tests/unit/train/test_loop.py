"""One step, one score, one learning rate: what the loop is made of, against plain formulas."""

# N answers, C outputs
import math

import pytest
import torch
from msgspec.structs import replace

from attnbench.contracts.task import Form, Training
from attnbench.train.data import Examples
from attnbench.train.loop import Score, Trained, Validation, evaluate, make_optimizer, rate, stops_early, update
from attnbench.train.model import Model
from helpers.subtests import as_subtests
from unit.train.toys import CLASSES, FORMS, NUMBERS, SMALL, TOKENS, examples_of, gradient_of, model_of, weights_of

UNEQUAL = (6, 0, 1, 3, 0, 0, 2, 5)


def step(model: Model, training: Training, *, asked: tuple[int, ...] | None = None) -> float:
    """Return the loss of the first training step on one batch."""
    optimizer = make_optimizer(model.parameters(), training)
    return update(model, examples_of(model.form, asked=asked), training, optimizer=optimizer, step=1)


# Accumulation.


@as_subtests("accumulate", [2, 4, 8])
@as_subtests("answer", FORMS)
def test_a_batch_in_parts_gives_the_gradient_and_the_loss_of_the_whole(answer: str, accumulate: int) -> None:
    whole, parts = model_of(FORMS[answer]), model_of(FORMS[answer])
    loss = step(whole, replace(SMALL, clip=0.0))
    assert step(parts, replace(SMALL, clip=0.0, accumulate=accumulate)) == pytest.approx(loss, rel=1e-6)
    assert (gradient_of(parts) - gradient_of(whole)).norm() <= 1e-6 * gradient_of(whole).norm()


@as_subtests("accumulate", [2, 4, 8])
def test_parts_count_by_what_they_are_asked_and_a_part_may_be_asked_nothing(accumulate: int) -> None:
    whole, parts = model_of(TOKENS), model_of(TOKENS)
    loss = step(whole, replace(SMALL, clip=0.0), asked=UNEQUAL)
    assert step(parts, replace(SMALL, clip=0.0, accumulate=accumulate), asked=UNEQUAL) == pytest.approx(loss, rel=1e-6)
    assert (gradient_of(parts) - gradient_of(whole)).norm() <= 1e-6 * gradient_of(whole).norm()


def test_a_batch_that_asks_nothing_teaches_nothing() -> None:
    model = model_of(TOKENS)
    before = weights_of(model)
    assert step(model, SMALL, asked=(0,) * 8) == 0
    assert torch.equal(weights_of(model), before)


# The loss.


def test_the_loss_of_classes_is_the_mean_cross_entropy() -> None:
    model, examples = model_of(CLASSES), examples_of(CLASSES)
    likelihoods_NC = torch.softmax(model.answers(model(examples.inputs), examples.targets)[0].detach(), dim=-1)
    expected = sum(-math.log(likelihoods_NC[n, target]) for n, target in enumerate(examples.targets)) / 8
    assert evaluate(model, examples, 8).loss == pytest.approx(expected, rel=1e-5)
    assert step(model, SMALL) == pytest.approx(expected, rel=1e-5)


def test_the_loss_of_tokens_is_the_mean_over_all_that_are_asked_for() -> None:
    model, examples = model_of(TOKENS), examples_of(TOKENS, asked=UNEQUAL)
    likelihoods_NTC = torch.softmax(model.head(model(examples.inputs)).detach(), dim=-1)
    asked = [(n, t, int(examples.targets[n, t])) for n, count in enumerate(UNEQUAL) for t in range(count)]
    expected = sum(-math.log(likelihoods_NTC[place]) for place in asked) / sum(UNEQUAL)
    assert evaluate(model, examples, 8).loss == pytest.approx(expected, rel=1e-5)
    assert step(model, SMALL, asked=UNEQUAL) == pytest.approx(expected, rel=1e-5)


def test_the_loss_of_numbers_is_the_mean_squared_error() -> None:
    model, examples = model_of(NUMBERS), examples_of(NUMBERS)
    answers_N, targets_N = model.answers(model(examples.inputs), examples.targets)
    pairs = zip(answers_N.tolist(), targets_N.tolist(), strict=True)
    expected = sum((answer - target) ** 2 for answer, target in pairs) / 8
    assert evaluate(model, examples, 8).loss == pytest.approx(expected, rel=1e-5)
    assert step(model, SMALL) == pytest.approx(expected, rel=1e-5)


# The score.


def test_a_score_counts_every_answer_once_however_the_examples_are_cut() -> None:
    model, examples = model_of(TOKENS), examples_of(TOKENS, asked=UNEQUAL)
    whole = evaluate(model, examples, 8)
    assert whole.answers == sum(UNEQUAL)
    for size in (1, 3, 5):
        score = evaluate(model, examples, size)
        assert (score.accuracy, score.answers) == (whole.accuracy, whole.answers)
        assert score.loss == pytest.approx(whole.loss, rel=1e-6)


def test_accuracy_is_the_share_of_answers_whose_likeliest_class_is_the_target() -> None:
    model, examples = model_of(CLASSES), examples_of(CLASSES, 40)
    likeliest = model.answers(model(examples.inputs), examples.targets)[0].argmax(dim=-1)
    right = sum(int(a == b) for a, b in zip(likeliest, examples.targets, strict=True))
    assert evaluate(model, examples, 7).accuracy == right / 40
    assert 0 < right < 40


def test_a_number_is_right_within_the_tolerance_of_its_task() -> None:
    model, inputs = model_of(replace(NUMBERS, tolerance=0.1)), examples_of(NUMBERS).inputs
    answers_N, _ = model.answers(model(inputs), torch.zeros(8))
    off_N = torch.tensor([0.0, 0.09, -0.09, 0.11, -0.11, 0.5, 0.05, 3.0])
    assert evaluate(model, Examples(inputs, answers_N.detach() + off_N), 8).accuracy == 4 / 8


@as_subtests("form", FORMS.values())
def test_dropout_is_off_while_a_model_is_scored_and_on_while_it_is_trained(form: Form) -> None:
    dropping, plain = model_of(form, replace(SMALL, dropout=0.5)), model_of(form)
    examples = examples_of(form)
    dropping.train()
    assert evaluate(dropping, examples, 8) == evaluate(plain, examples, 8)
    assert step(dropping, SMALL) != pytest.approx(step(plain, SMALL), rel=1e-3)


def test_scoring_leaves_neither_gradient_nor_graph() -> None:
    model = model_of(CLASSES)
    evaluate(model, examples_of(CLASSES), 8)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()


# Clipping.


@as_subtests("clip", [1e-3, 0.1])
def test_clipping_bounds_the_norm_of_the_gradient_and_keeps_its_direction(clip: float) -> None:
    free, clipped = model_of(CLASSES), model_of(CLASSES)
    step(free, replace(SMALL, clip=0.0))
    step(clipped, replace(SMALL, clip=clip))
    norm = gradient_of(free).norm()
    assert norm > clip
    torch.testing.assert_close(gradient_of(clipped), gradient_of(free) * clip / norm, rtol=1e-4, atol=0)


def test_a_gradient_within_the_bound_is_left_as_it_is() -> None:
    free, clipped = model_of(CLASSES), model_of(CLASSES)
    step(free, replace(SMALL, clip=0.0))
    step(clipped, replace(SMALL, clip=1e6))
    assert torch.equal(gradient_of(clipped), gradient_of(free))


# The learning rate.

PLAN = Training(learning_rate=0.5, steps=100, warmup=0.1)


@as_subtests(
    "decay, expected",
    [
        ("none", {1: 0.05, 5: 0.25, 10: 0.5, 11: 0.5, 55: 0.5, 100: 0.5}),
        ("linear", {1: 0.05, 5: 0.25, 10: 0.5, 11: 0.5 * 90 / 91, 55: 0.5 * 46 / 91, 100: 0.5 / 91}),
        (
            "cosine",
            {1: 0.05, 10: 0.5, **{n: 0.25 * (1 + math.cos(math.pi * (n - 10) / 91)) for n in (11, 55, 56, 100)}},
        ),
    ],
)
def test_the_rate_rises_to_its_highest_and_falls_from_there(decay: str, expected: dict[int, float]) -> None:
    plan = replace(PLAN, decay=decay)
    assert {n: rate(plan, n) for n in expected} == pytest.approx(expected)


@as_subtests("warmup", [0.0, 0.001, 0.1, 0.5, 0.999])
@as_subtests("decay", ["none", "linear", "cosine"])
@as_subtests("steps", [1, 2, 10, 1000])
def test_every_step_counts_and_one_has_the_highest_rate(steps: int, decay: str, warmup: float) -> None:
    plan = replace(PLAN, steps=steps, decay=decay, warmup=warmup)
    rates = [rate(plan, n) for n in range(1, steps + 1)]
    assert min(rates) > 0
    assert max(rates) == plan.learning_rate
    top = rates.index(plan.learning_rate)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_without_warm_up_the_first_step_has_the_highest_rate() -> None:
    assert rate(replace(PLAN, warmup=0.0), 1) == PLAN.learning_rate


def test_a_step_is_taken_at_its_own_rate() -> None:
    model = model_of(CLASSES)
    optimizer = make_optimizer(model.parameters(), PLAN)
    update(model, examples_of(CLASSES), PLAN, optimizer=optimizer, step=5)
    assert {group["lr"] for group in optimizer.param_groups} == {rate(PLAN, 5)}


# The optimizer.


@as_subtests("optimizer, expected", [("adam", 1 - 0.1), ("adamw", 1 - 0.1 * 0.5)])
def test_adamw_decays_weights_apart_from_the_gradient_and_adam_through_it(optimizer: str, expected: float) -> None:
    weight = torch.nn.Parameter(torch.ones(1, 1))
    weight.grad = torch.zeros(1, 1)
    make_optimizer([weight], Training(optimizer=optimizer, learning_rate=0.1, weight_decay=0.5)).step()
    assert weight.item() == pytest.approx(expected)


def test_matrices_and_tables_decay_and_biases_and_norms_do_not() -> None:
    model = model_of(TOKENS)
    for weight in model.parameters():
        weight.data.fill_(1.0)
        weight.grad = torch.zeros_like(weight)
    make_optimizer(model.parameters(), replace(SMALL, weight_decay=0.5)).step()
    still = {name for name, weight in model.named_parameters() if bool((weight == 1).all())}
    assert still == {name for name, _ in model.named_parameters() if "norm" in name or name.endswith("bias")}


def test_beta2_is_how_long_adam_remembers_squares() -> None:
    moved = []
    for beta2 in (0.0, 0.999):
        weight = torch.nn.Parameter(torch.zeros(1))
        optimizer = make_optimizer([weight], Training(learning_rate=0.1, beta2=beta2))
        for slope in (100.0, 1.0):
            before, weight.grad = weight.item(), torch.full((1,), slope)
            optimizer.step()
        moved.append(before - weight.item())
    assert moved[0] > 3 * moved[1]


# Giving up.


def history(*accuracies: float) -> Trained:
    scores = [Score(loss=1.0, accuracy=accuracy, answers=1) for accuracy in accuracies]
    curve = tuple(Validation(step=10 * n, score=score) for n, score in enumerate(scores, 1))
    return Trained(curve=curve, steps=10 * len(curve), diverged=False)


@as_subtests(
    "accuracies, patience, expected",
    [
        ((0.5,), 1, False),
        ((0.5, 0.4), 1, True),
        ((0.5, 0.5), 1, True),  # as good is not better
        ((0.5, 0.4, 0.6), 1, False),
        ((0.5, 0.4, 0.3), 3, False),
        ((0.5, 0.4, 0.3, 0.4), 3, True),
        ((0.5, *[0.1] * 50), 0, False),  # no patience is asked for
    ],
)
def test_patience_is_a_number_of_validations_without_a_better_one(
    accuracies: tuple[float, ...], patience: int, expected: bool
) -> None:
    assert stops_early(history(*accuracies), Training(patience=patience)) is expected


@as_subtests("enough, expected", [(0.9, True), (0.8, True), (0.91, False), (2.0, False)])
def test_enough_is_an_accuracy_at_which_nothing_is_left_to_learn(enough: float, expected: bool) -> None:
    assert stops_early(history(0.5, 0.9), Training(enough=enough)) is expected


def test_a_language_model_s_best_validation_has_the_lowest_loss() -> None:
    scores = [(0.5, 0.3), (0.4, 0.1), (0.6, 0.2)]
    curve = tuple(
        Validation(step=n, score=Score(loss=loss, accuracy=accuracy, answers=1))
        for n, (accuracy, loss) in enumerate(scores)
    )
    assert Trained(curve=curve, steps=3, diverged=False, by_loss=True).best is curve[1]


def test_the_best_validation_has_the_most_right_answers_and_of_equals_the_lowest_loss() -> None:
    scores = [(0.5, 0.1), (0.9, 0.8), (0.9, 0.7), (0.9, 0.7), (0.8, 0.2)]
    curve = [
        Validation(step=n, score=Score(loss=loss, accuracy=accuracy, answers=1))
        for n, (accuracy, loss) in enumerate(scores)
    ]
    assert Trained(curve=tuple(curve), steps=5, diverged=False).best is curve[2]
