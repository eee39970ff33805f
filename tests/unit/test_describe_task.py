"""What a child tells of a task: data that the parent can trust, or the reason in words."""

import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from attnbench.contracts.case import Mask, Shape
from attnbench.contracts.task import Training
from attnbench.plugins.describe import TaskDescription, describe_task
from attnbench.plugins.registry import find
from distributions import forget_imports

PLUGINS = Path(__file__).parents[1] / "plugins"
FIRST, RICH = "first_task.py:Largest", "rich_task.py:Total"


@pytest.fixture(autouse=True)
def _forgotten_imports() -> Iterator[None]:
    paths = list(sys.path)
    yield
    sys.path[:] = paths
    forget_imports()


def describe(target: str, **given: object) -> TaskDescription:
    """Describe a task of the plugins' folder, and send the answer as a child would."""
    found = describe_task(find(str(PLUGINS / target), "tasks", flag="--tasks"), given)
    return msgspec.json.decode(msgspec.json.encode(found), type=TaskDescription)


def test_a_stranger_s_first_task_is_described_with_the_shape_in_which_variants_are_trained() -> None:
    found = describe(FIRST)
    assert (found.failure, found.mistake) == ("", "")
    assert found.summary == "Tell in which half of a sequence its largest number stands."
    assert found.shape == Shape(batch=64, heads=2, kv_heads=2, seq_q=8, seq_k=8, head_dim=32)
    assert (found.label, found.mask, found.seeds) == ("Largest:preset=tiny", Mask(), 1)
    assert found.origin.path == str(PLUGINS / "first_task.py")
    assert len(found.origin.source_hash) == 16


def test_a_task_is_described_with_its_presets_and_its_options_before_the_training_s() -> None:
    found = describe(RICH, preset="long", length="12", width="32")
    assert found.summary == "Add up the numbers of a sequence."
    assert found.presets == ("tiny", "long")
    assert (found.label, found.seeds) == ("Total:preset=long,length=12,width=32", 5)
    names = [field.name for field in found.fields]
    assert names[:4] == ["length", "noise", "unit", "signed"]
    assert names[4:] == list(Training.__struct_fields__)
    length = found.fields[0]
    assert (length.type, length.default, length.meaning) == ("int", 4, "numbers of a sequence")
    assert all(field.meaning for field in found.fields[4:])


def test_the_options_described_are_complete_and_describe_the_same_task_again() -> None:
    found = describe(RICH, preset="long", length="12")
    assert found.options.keys() == {field.name for field in found.fields}
    again = describe(RICH, **found.options)
    assert (again.options, again.shape, again.seeds) == (found.options, found.shape, found.seeds)


@pytest.mark.parametrize(
    ("given", "mistake"),
    [
        ({"lenght": "3"}, "no option is called 'lenght'; did you mean 'length'?"),
        ({"preset": "tny"}, "no preset is called 'tny'; did you mean 'tiny'?"),
        ({"length": "many"}, "Expected `int`, got `str` - at `$.length`"),
        ({"heads": "3"}, "heads=3 does not divide width=16; the model's width is shared by its heads"),
        ({"noise": "9.5"}, "noise=9.5 would drown length=4 numbers; at most 4"),
        ({"clip": "inf"}, "Expected a finite number - at `$.clip`"),
        ({"noise": "nan"}, "Expected a finite number - at `$.noise`"),
        ({"length": str(2**31 + 1)}, "Expected `int` <= 2147483648 - at `$.shape.seq_q`"),
    ],
)
def test_a_mistake_is_told_in_one_sentence_and_the_task_is_described_all_the_same(
    given: dict[str, str], mistake: str
) -> None:
    found = describe(RICH, **given)
    assert found.mistake == mistake
    assert (found.failure, found.shape, found.presets) == ("", None, ("tiny", "long"))


@pytest.mark.parametrize(
    ("target", "failure"),
    [
        ("import_fails.py:Lost", "ModuleNotFoundError: No module named 'a_module_that_nobody_has'"),
        ("exits.py:Lost", "SystemExit: 3"),
        ("first_task.py:Lagrest", "did you mean 'Largest'?"),
        ("bad_tasks.py:a_function", "TypeError: a task is a class"),
        ("bad_tasks.py:OwnHeads", "has heads, preset, which the training has already"),
        ("bad_tasks.py:OptionNotScalar", "at `$.fields[0].default`"),
        ("bad_tasks.py:OptionNotDerived", "must be a class derived from attnbench.Options"),
        ("bad_tasks.py:OptionWithoutDefault", "preset 'tiny': Object missing required field `size`"),
        ("bad_tasks.py:PresetUnknownOption", "preset 'tiny': no option is called 'stepz'; did you mean 'steps'?"),
        ("bad_tasks.py:PresetWrongValue", "preset 'huge': Expected `int`, got `str` - at `$.steps`"),
        ("bad_tasks.py:PresetsEmpty", "PresetsEmpty.presets is empty"),
        ("bad_tasks.py:PresetsNumbered", "at `$.presets[0]`"),
        ("bad_tasks.py:NoForm", "NoForm must set self.form = attnbench.Form(...)"),
        ("bad_tasks.py:FormOfAnotherAnswer", "FormOfAnotherAnswer.form: Invalid enum value 'label' - at `$.answer`"),
        ("bad_tasks.py:FormWithoutLength", "FormWithoutLength.form: Expected `int` >= 1 - at `$.length`"),
        ("bad_tasks.py:Breaks", "KeyError: 'a table that is not there'"),
        ("bad_tasks.py:Exits", "SystemExit: 3"),
    ],
)
def test_a_task_that_cannot_be_used_is_described_by_its_failure(target: str, failure: str) -> None:
    found = describe(target)
    assert failure in found.failure
    assert found.shape is None


@pytest.mark.parametrize("name", ["FormWithoutInputs", "FormWithoutClasses", "FormOfManyNumbers"])
def test_a_form_that_contradicts_itself_is_told_in_a_sentence(name: str) -> None:
    assert describe(f"bad_tasks.py:{name}").mistake.startswith("a task's form has ")
