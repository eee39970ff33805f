"""Options of a task as typed, its presets, and the shape in which a variant is trained."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from attnbench import Form
from attnbench.contracts.case import Mask, Shape
from attnbench.contracts.errors import UsageError
from attnbench.contracts.specs import parse_specs
from attnbench.contracts.task import IGNORE, Settings, Training, build_task, presets_of, settings_of, shape_of
from attnbench.plugins.registry import load

PLUGINS = Path(__file__).parents[1] / "plugins"
TOKENS = Form(length=32, vocabulary=10, answer="tokens", outputs=10)
CLASSES = Form(length=32, vocabulary=10, answer="class", outputs=3)


def plugin(name: str) -> Any:
    file = {"Largest": "first_task.py", "Total": "rich_task.py"}.get(name, "bad_tasks.py")
    return load(f"{PLUGINS / file}:{name}")


def settle(name: str, **given: object) -> Settings:
    return settings_of(plugin(name), given)


# The form.


@pytest.mark.parametrize("inputs", [{}, {"vocabulary": 4, "features": 2}])
def test_a_form_has_tokens_or_numbers_as_inputs(inputs: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="one of the two"):
        Form(length=8, answer="class", outputs=2, **inputs)


@pytest.mark.parametrize(("answer", "outputs"), [("class", 1), ("tokens", 1), ("number", 2)])
def test_a_form_has_several_classes_or_tokens_to_choose_from_or_one_number(answer: str, outputs: int) -> None:
    with pytest.raises(ValueError, match="outputs="):
        Form(length=8, features=1, answer=answer, outputs=outputs)


@pytest.mark.parametrize(
    "context",
    [
        {"context_length": 4},
        {"context_vocabulary": 4},
        {"context_features": 2},
        {"context_length": 4, "context_vocabulary": 3, "context_features": 2},
    ],
)
def test_a_context_has_a_length_and_one_kind_of_content_or_is_left_out(context: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="with its context_length, or none of the three"):
        Form(length=8, features=1, answer="class", outputs=2, **context)


def test_bits_are_counted_per_token_and_of_nothing_else() -> None:
    with pytest.raises(ValueError, match="bits_per="):
        Form(length=8, features=1, answer="class", outputs=2, bits_per="byte")


def test_only_tokens_are_decoded_from_one_state() -> None:
    with pytest.raises(ValueError, match="compressed=true where its answers are tokens"):
        Form(length=8, features=1, answer="class", outputs=2, compressed=True)


def test_what_is_best_is_told_by_the_loss_of_numbers_and_of_a_language_model() -> None:
    assert Form(length=8, features=1, answer="number").by_loss
    assert msgspec.structs.replace(TOKENS, bits_per="byte").by_loss
    assert not TOKENS.by_loss
    assert not CLASSES.by_loss


def test_the_mask_of_a_form_is_causal_where_it_says_so() -> None:
    assert TOKENS.mask == Mask()
    assert msgspec.structs.replace(TOKENS, causal=True).mask == Mask(causal=True)


def test_answers_are_counted_where_one_is_asked_for() -> None:
    targets = torch.tensor([[IGNORE, 3, IGNORE], [1, 2, IGNORE]])
    assert TOKENS.count(targets) == 3
    assert CLASSES.count(torch.tensor([0, 2])) == 2


# Options.


def test_a_task_s_own_options_and_the_training_s_are_given_as_one_set() -> None:
    settings = settle("Total", length="12", steps="50", signed="true", dropout="0.1")
    assert (settings.own.length, settings.own.signed) == (12, True)
    assert (settings.training.steps, settings.training.dropout) == (50, 0.1)


def test_what_is_not_given_is_the_preset_s_and_then_the_default() -> None:
    settings = settle("Total", steps=50)
    assert settings.preset == "tiny"
    assert (settings.training.steps, settings.training.width, settings.own.length) == (50, 16, 4)
    assert settings.training.norm == Training().norm


def test_the_first_preset_is_the_default_and_another_is_asked_for_by_name() -> None:
    assert settle("Total").training.width == 16
    long = settle("Total", preset="long")
    assert (long.preset, long.own.length, long.training.seeds, long.training.width) == ("long", 400, 5, 64)


def test_a_task_without_presets_has_its_defaults_as_the_only_one() -> None:
    assert settle("Largest") == settle("Largest", preset="tiny")
    assert settle("Largest").training == Training()


def test_complete_options_give_the_same_settings_again() -> None:
    settings = settle("Total", length=6, unit="m", steps=7)
    again = settle("Total", **msgspec.json.decode(msgspec.json.encode(settings.flat)))
    assert (again.own, again.training) == (settings.own, settings.training)


@pytest.mark.parametrize(
    ("given", "nearest"), [("lenght", "length"), ("step", "steps"), ("layer", "layers"), ("prest", "preset")]
)
def test_an_unknown_option_is_refused_with_the_nearest(given: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=f"no option is called '{given}'; did you mean '{nearest}'"):
        settle("Total", **{given: "3"})


def test_an_unknown_preset_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no preset is called 'lnog'; did you mean 'long'\?"):
        settle("Total", preset="lnog")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("length", "0"), ("length", "many"), ("signed", "perhaps"), ("layers", "0"), ("heads", "1.5")),
        *(("norm", "both"), ("positions", "absolute"), ("dropout", "1"), ("learning_rate", "0"), ("clip", "-1")),
        *(("steps", ""), ("seeds", "0"), ("accumulate", "0"), ("optimizer", "sgd"), ("warmup", "1"), ("beta2", "1")),
    ],
)
def test_a_wrong_value_names_its_field(field: str, value: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=rf"\$\.{field}"):
        settle("Total", **{field: value})


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a_function", "a task is a class"),
        ("OwnHeads", r"OwnHeads.Options has heads, preset, which the training has already"),
        ("OptionNotDerived", "derived from attnbench.Options"),
        ("OptionWithoutDefault", r"preset 'tiny': .*`size`"),
        ("PresetUnknownOption", "preset 'tiny': no option is called 'stepz'; did you mean 'steps'"),
        ("PresetWrongValue", r"preset 'huge': .*\$\.steps"),
        ("PresetsEmpty", "PresetsEmpty.presets is empty"),
    ],
)
def test_a_task_whose_options_break_the_contract_is_refused_whatever_is_asked(name: str, reason: str) -> None:
    for refuse in (presets_of, lambda task: settings_of(task, {})):
        with pytest.raises(TypeError, match=reason):
            refuse(plugin(name))


def test_a_task_is_built_from_its_own_options() -> None:
    assert build_task(plugin("Total"), settle("Total", length=9)).form.length == 9


@pytest.mark.parametrize("name", ["NoForm", "NoExamples"])
def test_what_is_no_task_is_refused_with_what_it_must_have(name: str) -> None:
    with pytest.raises(TypeError, match=rf"{name} must set self.form = attnbench.Form\(...\) and define examples"):
        build_task(plugin(name), settle(name))


@pytest.mark.parametrize(("name", "field"), [("FormOfAnotherAnswer", "answer"), ("FormWithoutLength", "length")])
def test_a_form_that_is_none_names_the_field(name: str, field: str) -> None:
    with pytest.raises(TypeError, match=rf"{name}.form: .*\$\.{field}"):
        build_task(plugin(name), settle(name))


# The label.


def test_a_label_is_the_preset_and_what_differs_from_it() -> None:
    assert settle("Total").label("total") == "total:preset=tiny"
    settings = settle("Total", preset="long", length="12", steps="1000", tied="false", width=128)
    assert settings.label("total") == "total:preset=long,length=12,width=128"  # 1000 steps are the preset's own


def test_a_label_asks_for_the_same_task_again() -> None:
    given = {"length": 7, "noise": 1e-7, "signed": True, "learning_rate": 0.003, "tied": False, "norm": "post"}
    settings = settle("Total", preset="long", **given)
    (spec,) = parse_specs(settings.label("total"), flag="--tasks")
    assert settings_of(plugin("Total"), spec.options) == settings


def test_what_is_unset_against_the_preset_is_typed_as_null() -> None:
    class Named(plugin("Total")):
        presets = {"tiny": {"unit": "m"}}  # noqa: RUF012 - the shortest way to write presets

    (spec,) = parse_specs(settings_of(Named, {"unit": None}).label("named"), flag="--tasks")
    assert spec.options == {"preset": "tiny", "unit": "null"}


# The shape.


def test_the_shape_is_that_of_one_part_of_a_batch_at_the_task_s_length() -> None:
    training = Training(width=48, heads=4, batch=60, accumulate=3)
    assert shape_of(TOKENS, training) == Shape(batch=20, heads=4, kv_heads=4, seq_q=32, seq_k=32, head_dim=12)


def test_with_a_context_the_shape_is_that_of_the_attention_to_it() -> None:
    form = msgspec.structs.replace(CLASSES, context_length=9, context_features=3)
    expected = Shape(batch=64, heads=2, kv_heads=2, seq_q=32, seq_k=9, head_dim=32)
    assert shape_of(form, Training()) == expected


@pytest.mark.parametrize(
    ("form", "training", "reason"),
    [
        (TOKENS, Training(width=64, heads=3), "heads=3 does not divide width=64"),
        (TOKENS, Training(batch=10, accumulate=4), "accumulate=4 does not divide batch=10"),
        (TOKENS, Training(batch=4, accumulate=8), "accumulate=8 does not divide batch=4"),
        (CLASSES, Training(tied=True), "tied=true"),
        (TOKENS, Training(width=6, heads=2, positions="rotary"), "positions=rotary .* width=6 over heads=2 is odd"),
    ],
)
def test_options_that_do_not_fit_one_another_are_refused_by_name(form: Form, training: Training, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        shape_of(form, training)
