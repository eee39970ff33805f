import itertools

import pytest
import torch
from msgspec.structs import replace
from torch import Generator, Tensor

from attnbench.contracts.task import IGNORE, Form, Split, Training
from attnbench.train.data import Batches, Examples, draw_splits, generator_of
from helpers.subtests import as_subtests
from unit.train.toys import CLASSES, NUMBERS, PAIRED, SMALL, TOKENS, Sign, examples_of

BITS = 6
FEW = Training(train_examples=40, validation_examples=40, test_examples=40)


class Parity:
    """Return the parity of six bits: of 64 inputs, many are drawn more than once."""

    form = Form(length=BITS, vocabulary=2, answer="class", outputs=2)

    def examples(self, split: Split, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        inputs_NT = torch.randint(2, (count, BITS), generator=generator)
        return inputs_NT, inputs_NT.sum(dim=1) % 2


class Given:
    """Return the same examples whatever is asked."""

    def __init__(self, form: Form, *given: object) -> None:
        self.form, self.given = form, given

    def examples(self, split: Split, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        return self.given


def rows(examples: Examples) -> set[tuple[int, ...]]:
    return {tuple(row.tolist()) for row in examples.inputs}


# Splits.


def test_no_input_stands_in_two_splits_however_few_a_task_can_make() -> None:
    splits = draw_splits(Parity(), FEW, seed=0, device="cpu")
    for one, other in itertools.combinations(splits.values(), 2):
        assert not rows(one) & rows(other)
    assert len(splits["train"]) == 40 > len(rows(splits["train"]))  # within a split an input may come again
    assert 0 < len(splits["test"]) < len(splits["validation"]) < 40


def test_what_is_left_out_takes_its_target_with_it() -> None:
    for examples in draw_splits(Parity(), FEW, seed=0, device="cpu").values():
        assert torch.equal(examples.targets, examples.inputs.sum(dim=1) % 2)


@as_subtests("split", ["validation", "test"])
def test_a_split_with_nothing_left_is_refused_in_a_sentence(split: str) -> None:
    greedy = replace(FEW, train_examples=1000) if split == "validation" else replace(FEW, validation_examples=1000)
    with pytest.raises(ValueError, match=rf"asked in the {split} examples: 0 of .*; lower train_examples="):
        draw_splits(Parity(), greedy, seed=0, device="cpu")


def test_splits_are_a_pure_function_of_the_seed() -> None:
    torch.manual_seed(1)
    first = draw_splits(Sign(), SMALL, seed=5, device="cpu")
    torch.manual_seed(2)
    again, other = (draw_splits(Sign(), SMALL, seed=seed, device="cpu") for seed in (5, 6))
    for split, examples in first.items():
        assert torch.equal(examples.inputs, again[split].inputs)
        assert torch.equal(examples.targets, again[split].targets)
        assert not torch.equal(examples.inputs, other[split].inputs)


def test_the_size_of_one_split_changes_nothing_in_the_others() -> None:
    first, second = (
        draw_splits(Sign(), replace(SMALL, train_examples=count), seed=5, device="cpu") for count in (16, 32)
    )
    assert torch.equal(first["test"].inputs, second["test"].inputs)


def test_splits_lie_on_the_device_asked_for() -> None:
    for examples in draw_splits(Sign(), SMALL, seed=0, device="meta").values():
        assert (examples.inputs.device.type, examples.targets.device.type) == ("meta", "meta")


def test_streams_of_two_purposes_of_one_seed_are_not_the_same() -> None:
    first, again, other = (torch.rand(4, generator=generator_of(0, of)) for of in ("train", "train", "test"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


class Words:
    """Ask one of five questions about one of eight scenes: there are forty examples in all."""

    form = Form(length=1, vocabulary=5, answer="class", outputs=40, context_length=1, context_vocabulary=8)

    def examples(self, split: Split, count: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        questions_NT, scenes_NS = (torch.randint(below, (count, 1), generator=generator) for below in (5, 8))
        return questions_NT, scenes_NS, (8 * questions_NT + scenes_NS)[:, 0]


def test_the_same_question_about_another_scene_is_another_example() -> None:
    few = replace(FEW, train_examples=20, validation_examples=20, test_examples=20)
    splits = draw_splits(Words(), few, seed=0, device="cpu")
    for one, other in itertools.combinations(splits.values(), 2):
        assert not set(one.targets.tolist()) & set(other.targets.tolist())
        assert rows(one) & rows(other)
    for examples in splits.values():
        assert torch.equal(examples.targets, (8 * examples.inputs + examples.context)[:, 0])


# What a task gives, held against its form.

INPUTS, TARGETS = torch.zeros(4, 6, 2), torch.zeros(4, dtype=torch.long)


@as_subtests(
    "form, inputs, targets, reason",
    [
        (CLASSES, INPUTS[:, :5], TARGETS, r"inputs as torch.float32 \[4, 5, 2\] where .* torch.float32 \[4, 6, 2\]"),
        (CLASSES, INPUTS.double(), TARGETS, "inputs as torch.float64"),
        (CLASSES, INPUTS[:, :, 0], TARGETS, r"inputs as torch.float32 \[4, 6\]"),
        (CLASSES, INPUTS.numpy(), TARGETS, r"inputs as float32 \[4, 6, 2\] where"),
        (CLASSES, INPUTS, TARGETS[:3], r"targets as torch.int64 \[3\] where .* \[4\]"),
        (CLASSES, INPUTS, TARGETS.float(), "targets as torch.float32"),
        (CLASSES, INPUTS, TARGETS + 3, r"targets outside 0\.\.2"),
        (CLASSES, INPUTS, TARGETS + IGNORE, r"targets outside 0\.\.2"),
        (NUMBERS, INPUTS, TARGETS, "where its form asks for torch.float32"),
        (NUMBERS, INPUTS, TARGETS.float()[:, None], r"targets as torch.float32 \[4, 1\]"),
        (TOKENS, torch.full((4, 6), 11), torch.zeros(4, 6).long(), r"inputs outside 0\.\.10"),
        (TOKENS, torch.full((4, 6), -1), torch.zeros(4, 6).long(), r"inputs outside 0\.\.10"),
        (TOKENS, torch.zeros(4, 6).long(), torch.full((4, 6), 11), r"targets outside 0\.\.10"),
        (TOKENS, torch.zeros(4, 6).long(), TARGETS, r"targets as torch.int64 \[4\] where .* \[4, 6\]"),
    ],
)
def test_examples_that_are_not_as_the_form_says_are_refused_and_both_are_named(form, inputs, targets, reason) -> None:
    with pytest.raises(TypeError, match=reason):
        draw_splits(Given(form, inputs, targets), SMALL, seed=0, device="cpu")


@as_subtests(
    "given, reason",
    [
        ((torch.zeros(4, 6).long(), TARGETS), "2 tensors where its form asks for inputs, context, targets"),
        ((torch.zeros(4, 6).long(), torch.zeros(4, 3, 2), TARGETS), r"context as torch.float32 \[4, 3, 2\] where"),
        ((torch.zeros(4, 6).long(), torch.zeros(3, 4, 2), TARGETS), r"context as torch.float32 \[3, 4, 2\] where"),
        ((torch.zeros(4, 6).long(), torch.zeros(4, 4).long(), TARGETS), "context as torch.int64"),
    ],
)
def test_a_context_that_is_not_as_the_form_says_is_refused(given: tuple[Tensor, ...], reason: str) -> None:
    with pytest.raises(TypeError, match=reason):
        draw_splits(Given(PAIRED, *given), SMALL, seed=0, device="cpu")


def test_a_context_that_nobody_asked_for_is_refused() -> None:
    with pytest.raises(TypeError, match="3 tensors where its form asks for inputs, targets"):
        draw_splits(Given(CLASSES, INPUTS, INPUTS, TARGETS), SMALL, seed=0, device="cpu")


def test_a_task_that_asks_for_nothing_is_refused() -> None:
    silent = Given(TOKENS, torch.zeros(4, 6).long(), torch.full((4, 6), IGNORE))
    with pytest.raises(ValueError, match="nothing is asked in the train examples"):
        draw_splits(silent, SMALL, seed=0, device="cpu")


# Batches.


@as_subtests("count, size", [(12, 4), (10, 4), (7, 3), (5, 5), (3, 8), (9, 1)])
def test_every_example_comes_once_before_any_comes_again_in_an_order_of_its_own(count: int, size: int) -> None:
    examples = Examples(torch.arange(count), 10 * torch.arange(count))
    taken = list(itertools.islice(Batches(examples, size, seed=0), 8 * count))
    assert {len(batch) for batch in taken} == {min(size, count)}
    seen = torch.cat([batch.inputs for batch in taken])
    epochs = [tuple(epoch.tolist()) for epoch in seen.split(count) if len(epoch) == count]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert len(set(epochs)) > 1
    assert all(torch.equal(batch.targets, 10 * batch.inputs) for batch in taken)


def test_the_order_of_batches_follows_from_the_seed() -> None:
    examples = Examples(torch.arange(100), torch.arange(100))
    first, again, other = (next(Batches(examples, 50, seed=seed)).inputs for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_examples_are_cut_into_parts_in_their_order_and_none_is_lost() -> None:
    examples = examples_of(PAIRED, 10)
    parts = list(examples.parts(4))
    assert [len(part) for part in parts] == [4, 4, 2]
    assert torch.equal(torch.cat([part.inputs for part in parts]), examples.inputs)
    assert torch.equal(torch.cat([part.targets for part in parts]), examples.targets)
    assert torch.equal(torch.cat([part.context for part in parts]), examples.context)
    assert [len(examples.first(count)) for count in (3, 30)] == [3, 10]
