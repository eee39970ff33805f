"""The test of a trained model beyond the length that it was trained at."""

# N examples, T positions
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from torch import Generator, Tensor

from attnbench import Form
from attnbench.analysis.regime import is_exact_here
from attnbench.analysis.rows import Row, rows
from attnbench.contracts.longer import check_beyond
from attnbench.contracts.record import Job, Outcome, Probe, Record
from attnbench.contracts.task import IGNORE, Split, Training
from attnbench.plugins.describe import describe_task
from attnbench.plugins.registry import find
from attnbench.train import accuracy
from attnbench.train.longer import measure_longer
from attnbench.train.model import Model
from helpers.planted import job
from helpers.subtests import as_subtests
from unit.train.toys import SMALL, model_of, silently

TRAINING = replace(SMALL, positions="rotary", beyond=4, test_examples=20)
TINY = {"group": "S2", "length": 8, "width": 8, "heads": 2, "steps": 4, "batch": 8, "validate_every": 2}
COUNTS = {"train_examples": 40, "validation_examples": 10, "test_examples": 10}


class Repeat:
    """Repeat each token at once; where it is longer, the tokens from `wrong_from` on are answered with another one."""

    def __init__(self, length: int = 6, *, wrong_from: int = 1000) -> None:
        self.form = Form(length=length, vocabulary=5, answer="tokens", outputs=5)
        self.wrong_from = wrong_from

    def longer(self, factor: int) -> "Repeat":
        return Repeat(factor * self.form.length, wrong_from=self.wrong_from)

    def examples(self, split: Split, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        inputs_NT = torch.randint(5, (count, self.form.length), generator=generator)
        return inputs_NT, (inputs_NT + (torch.arange(self.form.length) >= self.wrong_from)) % 5


class Silent(Repeat):
    """Asks for nothing beyond the first six positions."""

    def longer(self, factor: int) -> "Repeat":
        return Silent(factor * self.form.length)

    def examples(self, split: Split, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        inputs_NT, targets_NT = super().examples(split, count, generator)
        targets_NT[:, 6:] = IGNORE
        return inputs_NT, targets_NT


class Wider(Repeat):
    """Has more tokens where it is longer."""

    def longer(self, factor: int) -> "Repeat":
        longer = Repeat(factor * self.form.length)
        longer.form = replace(longer.form, vocabulary=6, outputs=6)
        return longer


def echo(task: Repeat) -> Model:
    """Return a model that answers each token with itself: its head reads the embedding, and no block adds to it."""
    model = model_of(task.form, replace(TRAINING, width=8, norm="post", layers=1))
    model.blocks = torch.nn.ModuleList()
    model.embed.weight.data, model.head.weight.data = torch.eye(8)[:5], torch.eye(8)[:5]
    model.head.bias.data.zero_()
    return model


def figures(task: Repeat, model: Model) -> dict[str, float | None]:
    measured, missing = measure_longer(model, task, TRAINING, seed=0, build=lambda longer, _: echo(longer))
    assert not missing
    return {one.metric: one.values[0] for one in measured}


def test_each_multiple_of_the_training_length_has_a_score_of_the_same_weights() -> None:
    assert figures(Repeat(), echo(Repeat())) == {"accuracy_2x": 1.0, "accuracy_4x": 1.0}
    other = echo(Repeat())
    other.head.weight.data = other.head.weight.data.roll(1, 0)  # answers each token with its neighbour
    assert figures(Repeat(), other) == {"accuracy_2x": 0.0, "accuracy_4x": 0.0}


@as_subtests("wrong_from, at_2x, at_4x", [(6, 0.0, 0.0), (12, 1.0, 1 / 3)])
def test_only_answers_beyond_the_training_length_count(wrong_from: int, at_2x: float, at_4x: float) -> None:
    task = Repeat(wrong_from=wrong_from)
    assert figures(task, echo(task)) == {"accuracy_2x": pytest.approx(at_2x), "accuracy_4x": pytest.approx(at_4x)}


def test_a_task_that_asks_for_nothing_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"Silent.longer\(2\) asks for nothing beyond position 6"):
        figures(Silent(), echo(Silent()))


@as_subtests(
    "task, changes, reason",
    [
        (object(), {}, "beyond=4: this task has no longer form; leave beyond=1"),
        (Repeat(), {"positions": "learned"}, "positions=learned has no vectors beyond the training length; use"),
        (Wider(), {}, r"Wider.longer\(2\) must give the same form with a greater length"),
    ],
)
def test_what_cannot_be_tested_there_is_refused_before_it_is_trained(
    task: Repeat, changes: dict[str, str], reason: str
) -> None:
    with pytest.raises(Exception, match=reason):
        check_beyond(task, replace(TRAINING, **changes))
    check_beyond(task, replace(TRAINING, beyond=1, **changes))


def test_a_user_s_mistake_is_told_when_the_task_is_described() -> None:
    found = describe_task(find("adding", "tasks", flag=""), {"beyond": "2"})
    assert found.mistake == "beyond=2: this task has no longer form; leave beyond=1"
    found = describe_task(find("state-tracking", "tasks", flag=""), {"beyond": "3"})
    assert "beyond" in found.mistake


# With mechanisms.


def planned(variant: str, **given: object) -> Job:
    """Plan the training of a variant on parity of eight bits."""
    entry, task = find(variant, "variants", flag=""), find("state-tracking", "tasks", flag="")
    found = describe_task(task, {**TINY, **COUNTS, **given})
    assert found.shape is not None, found
    base = job(entry.name, kind="accuracy")
    probe = Probe(kind="accuracy", task=found.label, task_options=found.options)
    case = replace(base.case, shape=found.shape, mask=found.mask, passes="")
    return replace(base, case=case, probe=probe, target=entry.target, task_target=task.target)


def rows_of(job: Job, outcome: Outcome) -> dict[str, Row]:
    return {row.metric: row for row in rows([Record(run="a", job=job, outcome=outcome)])}


@as_subtests("positions", ["none", "rotary", "sinusoidal"])
def test_positions_that_have_no_end_go_on(positions: str) -> None:
    job = planned("vanilla", positions=positions, beyond=8)
    found = rows_of(job, accuracy.measure(job, silently))
    for factor in (2, 4, 8):
        assert 0 <= found[f"accuracy_{factor}x"].value <= 1
        assert not found[f"accuracy_{factor}x"].primary
    assert found["accuracy"].primary


def test_without_the_option_there_is_no_further_test_and_a_trial_has_none() -> None:
    plain, further = planned("vanilla", beyond=1), planned("vanilla", beyond=2)
    trial = replace(further, probe=replace(further.probe, trial=True, rate=1e-3))
    for each, tested in ((plain, False), (further, True), (trial, False)):
        measured = {one.metric for one in accuracy.measure(each, silently).measurements}
        assert ("accuracy_2x" in measured) == tested


def test_weights_that_are_made_for_a_length_say_so_in_their_row() -> None:
    job = planned("linformer", causal=False, beyond=2)
    found = rows_of(job, accuracy.measure(job, silently))
    assert found["accuracy"].value is not None
    assert found["accuracy_2x"].value is None
    assert found["accuracy_2x"].detail == (
        "its weights (project_keys, project_values) are made for the length that it was trained at"
    )


FIXED = """
from attnbench import Case, Unsupported
class Mine:
    def __init__(self, case: Case) -> None:
        if case.shape.seq_q > 8:
            raise Unsupported("it stops at 8")
    def __call__(self, q, k, v):
        return v
"""


def test_a_mechanism_that_does_not_serve_the_longer_shape_says_why(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FIXED)
    job = planned(f"{tmp_path / 'mine.py'}:Mine", beyond=2)
    outcome = accuracy.measure(job, silently)
    assert rows_of(job, outcome)["accuracy_2x"].detail == "it stops at 8"


def test_a_mechanism_that_is_exact_at_the_training_length_is_not_called_so_beyond_it() -> None:
    job = planned("window", beyond=2)
    outcome = accuracy.measure(job, silently)
    outcome = replace(outcome, facts={**outcome.facts, "exact": False, "exact_here": True})
    found = rows_of(job, outcome)
    assert is_exact_here(found["accuracy"])
    assert not is_exact_here(found["accuracy_2x"])


def test_the_multiples_are_those_up_to_the_longest() -> None:
    assert [Training(beyond=beyond).factors for beyond in (1, 2, 8)] == [(), (2,), (2, 4, 8)]
