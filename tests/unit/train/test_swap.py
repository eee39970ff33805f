"""The swap probe: an exact model with a mechanism in place of its attention, on models that train in milliseconds."""

import msgspec
import pytest
import torch
from msgspec.structs import replace

from attnbench.contracts.record import Job, Outcome, Swap
from attnbench.contracts.variant import Unsupported
from attnbench.plugins.exact import base_of
from attnbench.train import accuracy, swap
from unit.train.test_accuracy import MQAR, exam
from unit.train.toys import silently

SIZES = {**MQAR, "layers": 2, "heads": 2, "causal": True, "steps": 20}


def job(variant: str, *, how: Swap | None = None, **given: object) -> Job:
    planned = exam(variant, "mqar", **{**SIZES, **given})
    return replace(planned, probe=replace(planned.probe, kind="swap", swap=how or Swap(steps=3)))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "exact.pt"
    trained = base_of(job("vanilla"))
    assert trained is not None
    accuracy.measure(trained, silently, checkpoint=path)
    return path


def swapped(base, variant: str, *, how: Swap | None = None, **given: object) -> Outcome:
    outcome = swap.measure(job(variant, how=how, **given), silently, base=base)
    return msgspec.json.decode(msgspec.json.encode(outcome), type=Outcome)


def value(outcome: Outcome, metric: str) -> float:
    (found,) = (each.values[0] for each in outcome.measurements if each.metric == metric)
    assert found is not None
    return found


@pytest.mark.parametrize("variant", ["vanilla", "flash"])
def test_exact_attention_swapped_in_gives_the_model_its_own_loss(base, variant):
    outcome = swapped(base, variant, how=Swap(steps=0))
    assert value(outcome, "swap_loss") == pytest.approx(outcome.facts["exact_loss"], abs=1e-4)
    assert value(outcome, "swap_excess") == value(outcome, "tuned_excess") == pytest.approx(0, abs=1e-4)
    assert outcome.facts["untrained_parameters"] == 0


def test_a_mechanism_that_looks_at_nothing_loses_and_fine_tuning_is_the_same_for_all(base):
    exact, uniform = swapped(base, "vanilla"), swapped(base, "uniform")
    assert value(uniform, "swap_loss") != value(exact, "swap_loss")
    assert exact.facts["steps"] == uniform.facts["steps"] == 3
    assert value(exact, "tuned_loss") != value(exact, "swap_loss")  # it is trained on, like the others


def test_a_swap_gives_the_same_numbers_again(base):
    assert swapped(base, "sparse").measurements == swapped(base, "sparse").measurements


def test_a_tied_mechanism_takes_the_projection_of_the_queries_for_both(base):
    planned = job("reformer")
    task, training = accuracy.task_of(planned)
    weights = swap.read_weights(base, seed=1)
    model, untrained = swap.swapped_model(planned, task, training, weights)
    queries, _, values = weights["blocks.0.block.split.weight"].chunk(3)
    assert torch.equal(model.state_dict()["blocks.0.block.split.weight"], torch.cat((queries, values)))
    assert untrained == ()


def test_weights_that_no_checkpoint_holds_are_counted_and_named(base):
    outcome = swapped(base, "shaw")
    assert outcome.facts["untrained_parameters"] > 0
    assert "mechanism" in str(outcome.facts["untrained"])


def test_layers_that_are_not_swapped_and_first_tokens_stay_exact(base):
    whole = swapped(base, "uniform", how=Swap(steps=0, exact_tokens=MQAR["length"]))
    assert value(whole, "swap_excess") == pytest.approx(0, abs=1e-4)
    some, every = (
        abs(value(swapped(base, "uniform", how=Swap(steps=0, layers=layers)), "swap_excess")) for layers in ((1,), ())
    )
    assert some != every


def test_a_mechanism_that_does_not_serve_the_task_says_so(base):
    with pytest.raises(Unsupported, match="Linformer is an encoder"):
        swapped(base, "linformer")


def test_without_the_weights_of_the_exact_model_the_reason_names_its_training(tmp_path):
    with pytest.raises(FileNotFoundError, match="the training of the exact model left no weights"):
        swapped(tmp_path / "none.pt", "vanilla")


def test_swaps_of_different_options_are_different_jobs_and_all_share_one_training():
    jobs = [job("sparse"), job("sparse", how=Swap(steps=4)), job("linear")]
    assert len({each.key for each in jobs}) == 3
    assert len({base_of(each).key for each in jobs}) == 1
    assert base_of(replace(jobs[0], probe=replace(jobs[0].probe, swap=Swap(base="0123456789abcdef")))) is None
