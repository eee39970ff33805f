"""The accuracy probe on jobs made by hand: from a task and a variant, named as a user names them, to an outcome."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch
from msgspec.structs import replace

from attnbench.contracts.record import Job, Outcome, Probe
from attnbench.contracts.task import build_task, settings_of
from attnbench.contracts.variant import InvalidOutput, Unsupported
from attnbench.plugins.describe import describe_task
from attnbench.plugins.registry import find, load
from attnbench.train import accuracy
from attnbench.train.data import draw_splits
from attnbench.train.loop import evaluate
from attnbench.train.model import Model
from distributions import forget_imports
from helpers.planted import job
from helpers.subtests import as_subtests
from unit.train.toys import silently

PLUGINS = Path(__file__).parents[2] / "plugins"
PAIRED = f"{PLUGINS / 'paired_task.py'}:Fetch"
FIRST, RICH = f"{PLUGINS / 'first_task.py'}:Largest", f"{PLUGINS / 'rich_task.py'}:Total"
SIZES = {"length": 16, "pairs": 2, "vocabulary": 16, "width": 8, "steps": 6, "batch": 8, "validate_every": 2}
MQAR = {**SIZES, "preset": "tiny", "train_examples": 40, "validation_examples": 20, "test_examples": 30}


@pytest.fixture(autouse=True)
def _forgotten_imports() -> Iterator[None]:
    paths = list(sys.path)
    yield
    sys.path[:] = paths
    forget_imports()


def exam(variant: str, task: str, *, number: int = 1, **given: object) -> Job:
    """Plan the training of a variant on a task, as a run would from the task's description."""
    entry, wanted = find(variant, "variants", flag=""), find(task, "tasks", flag="")
    found = describe_task(entry=wanted, given=given)
    assert found.shape is not None, found
    planned = job(entry.name, kind="accuracy", number=number)
    probe = Probe(kind="accuracy", task=found.label, task_options=found.options, task_origin=found.origin)
    case = replace(planned.case, shape=found.shape, mask=found.mask, passes="")
    exam = replace(planned, case=case, probe=probe, target=entry.target, task_target=wanted.target)
    return msgspec.json.decode(msgspec.json.encode(exam), type=Job)


def measured(variant: str, task: str, *, number: int = 1, **given: object) -> Outcome:
    outcome = accuracy.measure(exam(variant, task, number=number, **given), silently)
    return msgspec.json.decode(msgspec.json.encode(outcome), type=Outcome)


def untrained(planned: Job, *, seed: int) -> Model:
    settings = settings_of(load(planned.task_target), planned.probe.task_options)
    task = build_task(load(planned.task_target), settings)
    return accuracy.build_model(planned, task, settings.training, seed=seed)


def figures(outcome: Outcome) -> dict[str, tuple[float | None, ...]]:
    return {measurement.metric: measurement.values for measurement in outcome.measurements}


def written(folder: Path, text: str) -> str:
    """Write a plugin into a file, and name it."""
    (folder / "mine.py").write_text(f"import torch\nfrom attnbench import Case, Form\n{text}")
    return f"{folder / 'mine.py'}:Mine"


# Outcomes.


def test_a_stranger_s_task_of_classes_is_learned() -> None:
    outcome = measured("vanilla", FIRST, steps=400, batch=32, width=16, train_examples=2000, learning_rate=1e-2)
    assert outcome.status == "ok"
    assert figures(outcome)["accuracy"][0] > 0.8


def test_a_stranger_s_task_of_numbers_is_learned() -> None:
    outcome = measured("linear", RICH)
    assert figures(outcome)["accuracy"][0] > 0.9  # within 0.2
    assert figures(outcome)["mse"] == figures(outcome)["test_loss"] < (0.2**2,)
    assert figures(outcome)["rmse"][0] ** 2 == pytest.approx(figures(outcome)["mse"][0])


def test_a_stranger_s_task_of_two_modalities_is_learned() -> None:
    outcome = measured("linear", PAIRED)
    assert outcome.status == "ok"
    assert figures(outcome)["accuracy"][0] > 0.9


def test_an_outcome_tells_the_score_what_it_was_held_against_and_how_it_came_about() -> None:
    outcome = measured("flash", "mqar", **MQAR)
    found = figures(outcome)
    assert list(found) == [
        *("accuracy", "test_loss", "perplexity", "train_accuracy", "train_loss", "generalisation_gap"),
        *("steps_to_best", "parameters"),
        *("step_curve", "validation_curve", "validation_loss_curve", "train_loss_curve"),
    ]
    assert found["step_curve"] == (2, 4, 6)
    assert {len(found[name]) for name in found if name.endswith("_curve")} == {3}
    assert found["perplexity"][0] == pytest.approx(math.exp(found["test_loss"][0]))
    assert found["steps_to_best"][0] in (2, 4, 6)
    assert found["generalisation_gap"][0] == pytest.approx(found["train_accuracy"][0] - found["accuracy"][0])
    assert 0 < found["test_loss"][0] < 10
    higher = {measurement.metric for measurement in outcome.measurements if measurement.higher_is_better}
    assert higher == {"accuracy", "train_accuracy", "validation_curve"}
    facts = {"steps": 6, "diverged": False, "learning_rate": 4e-3, "by_loss": False, "answers": 30 * 2}
    assert outcome.facts == {**facts, "parameters": outcome.facts["parameters"]}
    assert outcome.backend
    assert outcome.measurements[0].flags == ()


def test_the_parameters_are_those_of_the_whole_model_with_the_variant_s_own() -> None:
    plain, projecting = (measured(name, "mqar", **MQAR).facts["parameters"] for name in ("flash", "linformer"))
    assert projecting - plain == 2 * 2 * 256 * 16  # two layers, E and F, 256 columns of 16 keys


@as_subtests("variant, flags", [("vanilla", ()), ("linear", ("weights_kept",))])
def test_a_variant_that_cannot_drop_the_weights_that_were_to_be_dropped_says_so(
    variant: str, flags: tuple[str, ...]
) -> None:
    outcome = measured(variant, "mqar", **MQAR, weight_dropout=0.1)
    assert outcome.measurements[0].flags == flags


def test_a_language_model_is_told_in_bits_too(tmp_path: Path) -> None:
    text = (
        "class Mine:\n"
        "    def __init__(self, options):\n"
        "        self.form = Form(length=4, vocabulary=3, answer='tokens', outputs=3, bits_per='byte', causal=True)\n"
        "    def examples(self, split, count, generator):\n"
        "        tokens = torch.randint(3, (count, 5), generator=generator)\n"
        "        return tokens[:, :-1], tokens[:, 1:]\n"
    )
    counts = {"train_examples": 20, "validation_examples": 20, "test_examples": 20}
    found = figures(measured("vanilla", written(tmp_path, text), **counts, width=8, steps=3, validate_every=1))
    assert found["bits_per_byte"][0] == pytest.approx(math.log2(found["perplexity"][0]))
    assert found["bits_per_byte"][0] == pytest.approx(math.log2(3), rel=0.3)


def test_the_best_weights_are_loaded_from_the_file_alone(tmp_path: Path) -> None:
    planned, file = exam("linformer", "mqar", **MQAR), tmp_path / "checkpoints" / "a.pt"
    outcome = accuracy.measure(planned, silently, checkpoint=file)
    job, model = accuracy.load_best(file)
    assert job == planned
    settings = settings_of(load(job.task_target), job.probe.task_options)
    task = build_task(load(job.task_target), settings)
    splits = draw_splits(task, settings.training, seed=accuracy.seed_of(job), device="cpu")
    tested = evaluate(model, splits["test"], settings.training.part)
    assert (tested.accuracy,) == figures(outcome)["accuracy"]


def test_a_training_tells_of_every_validation() -> None:
    said: list[str] = []
    accuracy.measure(exam("flash", "mqar", **MQAR), said.append)
    assert [text.partition(",")[0] for text in said] == ["drawing the examples", "step 2/6", "step 4/6", "step 6/6"]


def test_what_is_learned_by_heart_shows_as_the_gap_between_training_and_test(tmp_path: Path) -> None:
    lottery = (
        "class Mine:\n"
        "    def __init__(self, options):\n"
        "        self.form = Form(length=4, features=2, answer='class', outputs=2)\n"
        "    def examples(self, split, count, generator):\n"
        "        inputs = torch.randn(count, 4, 2, generator=generator)\n"
        "        return inputs, torch.randint(2, (count,), generator=generator)\n"
    )
    counts = {"train_examples": 8, "validation_examples": 100, "test_examples": 200}
    given = {"width": 16, "steps": 60, "validate_every": 60, "batch": 8, "learning_rate": 1e-2}
    found = figures(measured("vanilla", written(tmp_path, lottery), **counts, **given))
    assert found["train_accuracy"] == (1.0,)
    assert found["accuracy"][0] == pytest.approx(0.5, abs=0.15)
    assert found["generalisation_gap"][0] > 0.3


# Trials.


def at(planned: Job, rate: float, **changes: object) -> Job:
    return replace(planned, probe=replace(planned.probe, rate=rate, **changes))


def test_a_trial_tells_its_best_validation_and_nothing_of_the_test_and_leaves_no_file(tmp_path: Path) -> None:
    planned, file = exam("flash", "mqar", **MQAR), tmp_path / "checkpoints" / "a.pt"
    outcome = accuracy.measure(at(planned, 1e-2, trial=True), silently, checkpoint=file)
    found = figures(outcome)
    assert list(found)[:2] == ["search_accuracy", "search_loss"]
    assert all(name.endswith("_curve") for name in list(found)[2:])
    assert found["search_accuracy"][0] == max(found["validation_curve"])
    assert outcome.facts["learning_rate"] == 1e-2
    assert not file.exists()


def test_a_trial_has_a_seed_of_its_own_that_every_rate_shares() -> None:
    planned = exam("flash", "mqar", **MQAR)
    trials = {accuracy.seed_of(at(planned, rate, trial=True)) for rate in (1e-3, 1e-2)}
    assert len(trials) == 1
    assert accuracy.seed_of(planned) not in trials
    assert accuracy.seed_of(at(planned, 1e-2)) == accuracy.seed_of(planned)


def test_a_training_at_a_searched_rate_says_what_was_tried_and_whether_it_lies_at_an_end() -> None:
    planned = exam("flash", "mqar", **MQAR)
    inside, edge = (accuracy.measure(at(planned, rate, searched=(1e-3, 1e-2, 0.1)), silently) for rate in (1e-2, 1e-3))
    assert (inside.facts["learning_rate"], inside.facts["searched_rates"]) == (1e-2, "0.001, 0.01, 0.1")
    assert (inside.measurements[0].flags, edge.measurements[0].flags) == ((), ("edge_rate",))


def test_a_trial_that_diverges_at_once_has_no_score(tmp_path: Path) -> None:
    breaks = written(tmp_path, BREAKS.format(good_calls=0))
    outcome = accuracy.measure(at(exam(breaks, "mqar", **MQAR), 1e-2, trial=True), silently)
    assert outcome.facts["diverged"] is True
    assert figures(outcome)["search_accuracy"] == (None,)


# Refusals.


def test_a_variant_without_a_causal_form_refuses_a_causal_task_in_words() -> None:
    with pytest.raises(Unsupported, match="whole sequence"):
        measured("linformer", "mqar", **MQAR, causal=True)


TIES = (
    "from attnbench import Support\n"
    "class Mine:\n"
    "    supports = Support(ties_qk=True)\n"
    "    def __init__(self, case: Case) -> None:\n"
    "        pass\n"
    "    def __call__(self, q, k, v):\n"
    "        return v\n"
)


@pytest.mark.parametrize("places", [2, 4])  # the inputs are 2 long: lengths that agree by chance are no help
def test_a_variant_that_cannot_attend_to_another_sequence_refuses_a_second_modality_in_words(
    tmp_path: Path, places: int
) -> None:
    for variant, reason in (
        ("hierarchical", "positions of one sequence"),
        (written(tmp_path, TIES), "are its keys too"),
    ):
        with pytest.raises(Unsupported, match=reason):
            measured(variant, PAIRED, places=places)


def test_an_output_of_the_wrong_shape_is_invalid() -> None:
    with pytest.raises(InvalidOutput, match="is due"):
        measured(f"{PLUGINS / 'faulty.py'}:WrongShape", "mqar", **MQAR)


def test_a_task_that_makes_too_few_inputs_says_what_to_change() -> None:
    with pytest.raises(ValueError, match="lower train_examples=4000"):
        measured("flash", "mqar", **{**MQAR, "vocabulary": 4, "pairs": 1, "length": 4, "train_examples": 4000})


# Seeds.


def test_the_same_round_gives_the_same_numbers_to_the_last_bit() -> None:
    assert measured("flash", "mqar", **MQAR, dropout=0.1) == measured("flash", "mqar", **MQAR, dropout=0.1)


def test_rounds_differ_in_their_data_and_their_weights() -> None:
    first, second = (figures(measured("flash", "mqar", **MQAR, number=number)) for number in (1, 2))
    assert first["test_loss"] != second["test_loss"]
    jobs = [exam("flash", "mqar", number=number, **MQAR) for number in (1, 2)]
    one, other = (untrained(planned, seed=accuracy.seed_of(planned)) for planned in jobs)
    assert not torch.equal(one.head.weight, other.head.weight)


def test_the_run_s_own_seed_moves_every_round() -> None:
    planned = exam("flash", "mqar", **MQAR)
    moved = replace(planned, case=replace(planned.case, seed=1))
    assert figures(accuracy.measure(planned, silently)) != figures(accuracy.measure(moved, silently))


DRAWS = (
    "class Mine(torch.nn.Module):\n"
    "    def __init__(self, case: Case) -> None:\n"
    "        super().__init__()\n"
    "        self.scale = torch.nn.Parameter(torch.randn(()))\n"
    "    def forward(self, q, k, v):\n"
    "        return self.scale * v\n"
)


def test_what_a_variant_draws_for_itself_leaves_the_rest_of_the_model_as_it_starts_for_others(tmp_path: Path) -> None:
    names = "flash", written(tmp_path, DRAWS)
    plain, other = (untrained(exam(name, "mqar", **MQAR), seed=3).state_dict() for name in names)
    assert all(torch.equal(plain[name], other[name]) for name in plain)
    assert len({float(other[name]) for name in other.keys() - plain.keys()}) == 2  # a draw of its own in each layer


def test_what_a_variant_draws_for_itself_follows_from_the_seed(tmp_path: Path) -> None:
    planned = exam(written(tmp_path, DRAWS), "mqar", **MQAR)
    one, again, other = (untrained(planned, seed=seed).mechanisms[0].scale for seed in (3, 3, 4))
    assert one == again != other


def test_each_layer_has_a_variant_built_from_a_seed_of_its_own() -> None:
    first, second = untrained(exam("linformer", "mqar", **MQAR), seed=3).mechanisms
    assert not torch.equal(first.project_keys, second.project_keys)


def test_layers_may_share_what_a_variant_learns_and_are_trained_so() -> None:
    planned = exam("linformer", "mqar", **MQAR)
    planned = replace(planned, case=replace(planned.case, options={"k": 256, "sharing": "layerwise"}))
    model = untrained(planned, seed=3)
    first, second = model.mechanisms
    assert first.project_keys is second.project_keys is second.project_values
    alone = untrained(exam("linformer", "mqar", **MQAR), seed=3).mechanisms[0]
    assert torch.equal(first.project_keys, alone.project_keys)
    outcome = accuracy.measure(planned, silently)
    plain = measured("flash", "mqar", **MQAR)
    assert outcome.facts["parameters"] - plain.facts["parameters"] == 256 * 16  # one matrix in both layers


# Divergence.

BREAKS = (
    "class Mine(torch.nn.Module):\n"
    "    calls = 0\n"
    "    def __init__(self, case: Case) -> None:\n"
    "        super().__init__()\n"
    "    def forward(self, q, k, v):\n"
    "        Mine.calls += self.training\n"
    "        return v * float('nan') if self.training and Mine.calls > {good_calls} else v\n"
)


@pytest.mark.parametrize(("good_steps", "validations"), [(0, 0), (1, 0), (3, 1), (5, 2)])
def test_a_training_that_diverges_is_a_score_under_a_flag(tmp_path: Path, good_steps: int, validations: int) -> None:
    breaks = written(tmp_path, BREAKS.format(good_calls=good_steps * 2))  # two layers call it in turn
    outcome = measured(breaks, "mqar", **MQAR)
    found = figures(outcome)
    assert outcome.status == "ok"
    assert (outcome.facts["diverged"], outcome.facts["steps"]) == (True, good_steps + 1)
    assert len(found["validation_curve"]) == validations
    assert all("diverged" in measurement.flags for measurement in outcome.measurements)
    assert 0 <= found["accuracy"][0] <= 1
    assert math.isfinite(found["test_loss"][0])
    assert (found["steps_to_best"][0] > 0) == (validations > 0)


def test_a_loss_that_is_never_a_number_is_stored_as_null_under_a_flag(tmp_path: Path) -> None:
    lost = written(tmp_path, "def Mine(q, k, v):\n    return v * float('nan')\n")
    outcome = measured(lost, "mqar", **MQAR)
    (loss,) = [measurement for measurement in outcome.measurements if measurement.metric == "test_loss"]
    assert (loss.values, loss.flags) == ((None,), ("non_finite", "diverged"))
