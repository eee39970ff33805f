"""What every registered task owes the harness, and multi-query associative recall against its definition."""

# N examples, P pairs of a key and its value, T positions
from collections import Counter
from collections.abc import Iterator
from itertools import permutations
from typing import Any

import msgspec
import pytest
import torch
from torch import Generator

from attnbench import IGNORE, Form
from attnbench.contracts.longer import check_beyond, longer_of
from attnbench.contracts.task import Split, Task, Training, build_task, presets_of, settings_of
from attnbench.plugins.describe import TaskDescription, describe_task
from attnbench.plugins.registry import load
from attnbench.train.data import Examples, draw, draw_splits
from attnbench.train.loop import Score, evaluate
from attnbench_suites.tasks.mqar import BLANK, Mqar
from helpers.learning import TASKS, Permuted, built, model_of, trained
from helpers.made_files import options_for
from helpers.subtests import as_subtests
from laws.workloads import ENTRIES, ties

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def presets(name: str) -> list[str]:
    return list(presets_of(load(TASKS[name].target)))


def drawn(task: Task, count: int, *, seed: int = 0, split: Split = "train") -> Examples:
    return draw(task, split, count, Generator().manual_seed(seed))


# Every task.


@pytest.mark.parametrize("name", TASKS)
@as_subtests("preset", presets)
def test_every_preset_of_a_task_can_be_planned(name: str, preset: str) -> None:
    given = {"preset": preset, **options_for(name)}
    found = describe_task(TASKS[name], given)
    assert (found.failure, found.mistake) == ("", "")
    assert found.label == f"{name}:" + ",".join(f"{key}={value}" for key, value in given.items())
    assert found.summary
    assert all(field.meaning for field in found.fields)
    assert msgspec.json.decode(msgspec.json.encode(found), type=TaskDescription) == found


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_the_presets_tiny_small_and_one_of_published_size(name: str) -> None:
    (longest,) = {"paper", "large"} & {*presets(name)}
    for preset, promised in {"tiny": (1, 1), "small": (3, 3), longest: (4, 5)}.items():
        training = built(name, preset=preset)[1]
        assert (training.rates, training.seeds) == promised, preset


@pytest.mark.parametrize("name", TASKS)
@as_subtests("preset", presets)
@as_subtests("split", SPLITS)
def test_examples_are_a_pure_function_of_the_generator(name: str, preset: str, split: Split) -> None:
    task, _ = built(name, preset=preset)
    torch.manual_seed(1)
    first = drawn(task, 20, split=split)
    torch.manual_seed(2)
    again, other = drawn(task, 20, split=split), drawn(task, 20, seed=1, split=split)
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.targets, again.targets)
    assert shown(first) == shown(again)
    assert not torch.equal(first.inputs, other.inputs)


@pytest.mark.parametrize("name", TASKS)
@as_subtests("preset", presets)
def test_examples_match_their_form_and_no_input_is_in_two_splits(name: str, preset: str) -> None:
    task, training = built(name, preset=preset, train_examples=200, validation_examples=50, test_examples=50)
    splits = draw_splits(task, training, seed=0, device="cpu")
    rows = [shown(splits[split]) for split in SPLITS]
    assert len(set.union(*rows)) == sum(map(len, rows))


@pytest.mark.parametrize("name", TASKS)
@as_subtests("preset", presets)
def test_a_task_that_is_tested_beyond_its_length_asks_there_in_the_same_form(name: str, preset: str) -> None:
    task, training = built(name, preset=preset)
    check_beyond(task, training)
    for factor in training.factors:
        longer = longer_of(task, factor)
        examples = drawn(longer, 5, split="test")
        assert longer.form.length == pytest.approx(factor * task.form.length, rel=0.2)
        assert (examples.targets[:, task.form.length :] != IGNORE).any(dim=1).all()


def shown(examples: Examples) -> set[bytes]:
    """Return what a model sees of each example: its inputs, and its context if it has one."""
    parts = [examples.inputs] if examples.context is None else [examples.inputs, examples.context]
    return {b"".join(row.numpy().tobytes() for row in rows) for rows in zip(*parts, strict=True)}


# Multi-query associative recall.

MQAR = [
    {},
    {"length": 4, "pairs": 1, "vocabulary": 4},
    {"length": 17, "pairs": 4, "vocabulary": 11},
    {"length": 128, "pairs": 8},
    {"length": 256, "pairs": 16},
    {"length": 64, "pairs": 16, "vocabulary": 34, "power": 1.0},
]


def recall(**options: Any) -> Mqar:
    return Mqar(Mqar.Options(**options))


def sequences(task: Mqar, count: int = 200) -> Iterator[tuple[list[int], list[int]]]:
    examples = drawn(task, count)
    return zip(examples.inputs.tolist(), examples.targets.tolist(), strict=True)


@as_subtests("options", MQAR)
def test_looking_keys_up_in_the_pairs_answers_every_question(options: dict[str, Any]) -> None:
    task = recall(**options)
    for inputs, targets in sequences(task):
        told = inputs[: 2 * task.options.pairs]
        values = dict(zip(told[::2], told[1::2], strict=True))
        later = enumerate(inputs[2 * task.options.pairs :], 2 * task.options.pairs)
        answers = {position: values[token] for position, token in later if token != BLANK}
        assert answers == {position: target for position, target in enumerate(targets) if target != IGNORE}


@as_subtests("options", MQAR)
def test_every_key_is_asked_for_once_after_the_pairs_and_its_answer_is_not_shown(options: dict[str, Any]) -> None:
    task = recall(**options)
    for inputs, targets in sequences(task):
        keys, values = set(inputs[: 2 * task.options.pairs : 2]), set(inputs[1 : 2 * task.options.pairs : 2])
        asked = [token for token in inputs[2 * task.options.pairs :] if token != BLANK]
        assert sorted(asked) == sorted(keys)
        assert len(keys) == len(values) == task.options.pairs
        assert sorted(target for target in targets if target != IGNORE) == sorted(values)


@as_subtests("options", MQAR)
def test_keys_use_the_whole_lower_half_of_the_vocabulary_and_values_the_upper(options: dict[str, Any]) -> None:
    task = recall(**options)
    half, end = task.options.vocabulary // 2, 2 * task.options.pairs
    inputs_NT = drawn(task, 40 * half // task.options.pairs).inputs
    keys, values = inputs_NT[:, :end:2].unique().tolist(), inputs_NT[:, 1:end:2].unique().tolist()
    assert keys == list(range(1, half))
    assert values == list(range(half, task.options.vocabulary))


def test_every_ordered_choice_of_keys_and_of_values_is_as_likely_as_any_other() -> None:
    count = 12_000
    inputs_NT = drawn(recall(length=8, pairs=2, vocabulary=8), count).inputs
    for columns, tokens in (([0, 2], (1, 2, 3)), ([1, 3], (4, 5, 6, 7))):
        choices = list(permutations(tokens, 2))
        found = Counter(map(tuple, inputs_NT[:, columns].tolist()))
        assert found.keys() == set(choices)
        share = 1 / len(choices)
        deviation = (count * share * (1 - share)) ** 0.5
        assert all(abs(each - count * share) < 4.5 * deviation for each in found.values())


@pytest.mark.parametrize("power", [0.01, 1.0, 2.5])
def test_the_gap_between_pairs_and_question_follows_the_power_law(power: float) -> None:
    count, task = 40_000, recall(length=34, pairs=1, vocabulary=8, power=power)
    places = drawn(task, count).targets.argmax(dim=1)  # IGNORE is below every answer
    gaps = (places - 2) // 2 + 1
    weights = [gap ** (power - 1) for gap in range(1, 17)]
    for gap, weight in enumerate(weights, 1):
        share = weight / sum(weights)
        assert (gaps == gap).float().mean() == pytest.approx(share, abs=4.5 * (share * (1 - share) / count) ** 0.5)


def test_the_order_in_which_pairs_are_asked_for_is_random() -> None:
    task = recall(length=64, pairs=4, power=1.0)
    inputs_NT = drawn(task, 4000).inputs
    first_asked_N = [next(token for token in row[8:] if token != BLANK) for row in inputs_NT.tolist()]
    column_N = [row[:8:2].index(token) for row, token in zip(inputs_NT.tolist(), first_asked_N, strict=True)]
    for column in range(4):
        assert column_N.count(column) / 4000 == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("name", ["digits", "mqar", "pathfinder", "pixels"])
def test_a_preset_that_is_not_the_published_one_is_not_called_paper_any_more(name: str) -> None:
    mistake = describe_task(TASKS[name], {"preset": "paper"}).mistake
    assert mistake == "preset 'paper' is called 'large' now, as it is not quite the published one; write preset=large"


def test_the_defaults_and_the_preset_large_have_the_published_sizes() -> None:
    task, training = built("mqar", preset="large")
    form = Form(length=256, answer="tokens", vocabulary=8192, outputs=8192, causal=True)
    assert (task.form, task.options.pairs, task.options.power) == (form, 16, 0.01)
    assert (training.layers, training.train_examples, training.test_examples) == (2, 100_000, 3000)
    assert training.seeds >= 5
    for length, pairs in ((64, 4), (128, 8), (256, 16)):
        assert recall(length=length, pairs=pairs).form.length == length
    assert (Mqar.Options().length, Mqar.Options().pairs, Mqar.Options().vocabulary) == (64, 4, 8192)


def test_the_preset_tiny_also_suits_mechanisms_without_a_causal_form() -> None:
    assert not build_task(Mqar, settings_of(Mqar, {"preset": "tiny"})).form.causal


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"length": 15, "pairs": 4}, "length=15 has no room to ask for pairs=4"),
        ({"length": 64, "pairs": 4, "vocabulary": 9}, "vocabulary=9 has too few keys for pairs=4"),
    ],
)
def test_sizes_that_do_not_fit_one_another_are_refused_by_name(options: dict[str, int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        recall(**options)


# Trainings.

SIZES = {"preset": "tiny", "length": 12, "pairs": 2, "vocabulary": 16, "width": 32, "heads": 1}
BUDGET = {"steps": 300, "validate_every": 50, "enough": 0.98, "learning_rate": 5e-3}
COUNTS = {"train_examples": 3000, "validation_examples": 300, "test_examples": 1200}
VALUES = 8


def scores_of(name: str, task: Task, training: Training) -> tuple[Score, Score]:
    """Train a variant from seed 0; return its scores on the test split and on what it was trained on."""
    model, splits = trained(name, task, training)
    return evaluate(model, splits["test"], training.part), evaluate(model, splits["train"], training.part)


# One of every way to pay attention, each about a second; `make test-all` trains the rest.
TRAINED = ("vanilla", "linear", "reformer", "linformer")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in TRAINED else pytest.mark.exhaustive) for name in ENTRIES]
)
def test_on_permuted_answers_no_mechanism_beats_the_most_common_answer(name: str) -> None:
    task, training = built("mqar", **SIZES, **BUDGET | {"steps": 60}, **COUNTS)
    score, _ = scores_of(name, Permuted(task), training)
    assert score.answers > 1000
    deviation = (1 / VALUES * (1 - 1 / VALUES) / score.answers) ** 0.5
    assert score.accuracy == pytest.approx(1 / VALUES, abs=4 * deviation)


def test_on_true_answers_attention_generalises_to_unseen_examples() -> None:
    task, training = built("mqar", **SIZES, **BUDGET, **COUNTS, causal=True)
    score, learned = scores_of("flash", task, training)
    assert score.answers > 1000
    assert score.accuracy > 0.9  # one of the sequence's two values, drawn by lot, is right half of the time
    assert learned.accuracy - score.accuracy < 0.05


def test_every_variant_is_trained_in_the_same_model_from_the_same_weights() -> None:
    task, training = built("mqar", **SIZES)
    states = {name: model_of(name, task, training).state_dict() for name in ENTRIES if not ties(name)}
    plain = states["vanilla"]
    for name, state in states.items():
        assert all(torch.equal(state[weight], plain[weight]) for weight in plain), name
        assert all(".mechanism." in weight for weight in state.keys() - plain.keys()), name


def test_variants_without_weights_of_their_own_have_the_same_number_of_them() -> None:
    task, training = built("mqar", **SIZES)
    counts = set()
    for name in ENTRIES:
        model = model_of(name, task, training)
        if not ties(name) and not any(".mechanism." in weight for weight, _ in model.named_parameters()):
            counts.add(sum(parameter.numel() for parameter in model.parameters()))
    assert len(counts) == 1


def test_a_variant_that_ties_queries_and_keys_has_one_projection_less_in_each_layer() -> None:
    task, training = built("mqar", **SIZES)
    counts = {name: sum(p.numel() for p in model_of(name, task, training).parameters()) for name in ENTRIES}
    saved = training.layers * (training.width**2 + training.width)
    assert {counts["vanilla"] - counts[name] for name in ENTRIES if ties(name)} == {saved}
