"""What a mechanism asks of the model that trains it: positions, layers' numbers, decay, and what is drawn anew."""

import pytest
import torch
from msgspec.structs import replace

from attnbench.contracts.task import Training
from attnbench.train import accuracy
from attnbench.train.loop import make_optimizer
from attnbench.train.positions import Rotary
from unit.train.test_accuracy import MQAR, exam, measured

SIZES = {**MQAR, "layers": 3, "heads": 2, "width": 32, "causal": True}


def model_of(variant: str, **given: object):
    job = exam(variant, "mqar", **{**SIZES, **given})
    task, training = accuracy.task_of(job)
    return accuracy.build_model(job, task, training, seed=7)


def test_each_layer_of_differential_attention_starts_with_its_own_share():
    starts = [each._start for each in model_of("differential").mechanisms]
    assert starts == pytest.approx([0.2, 0.8 - 0.6 * 2.718281828**-0.3, 0.8 - 0.6 * 2.718281828**-0.6])


def test_all_layers_share_t5_s_table_and_it_is_counted_once():
    first, *others = model_of("t5-bias").mechanisms
    assert all(each.bias_HU is first.bias_HU for each in others)
    with_table, without = model_of("t5-bias").size, model_of("t5-bias", layers=1).size
    assert with_table - without == 2 * (model_of("vanilla", layers=2).size - model_of("vanilla", layers=1).size)


@pytest.mark.parametrize("variant", ["alibi", "t5-bias", "shaw"])
def test_a_mechanism_with_positions_of_its_own_is_trained_without_the_model_s(variant):
    outcome = measured(variant, "mqar", **SIZES)
    assert outcome.facts["positions"] == "none"
    assert "positions" not in measured("vanilla", "mqar", **SIZES).facts


def shifted(variant: str, *, by: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a mechanism gives on queries and keys that a model rotates from position 0 on, and from `by` on."""
    block = model_of(variant, positions="rotary", layers=1).blocks[0].block
    torch.manual_seed(3)
    q, k, v = (torch.randn(2, 2, 16, 16) for _ in range(3))
    far = Rotary(16 + by, 16, parts=block.rotary.parts)
    moved = [far(torch.cat((torch.zeros(2, 2, by, 16), x), dim=2))[:, :, by:] for x in (q, k)]
    return block.mechanism(block.rotary(q), block.rotary(k), v), block.mechanism(*moved, v)


@pytest.mark.parametrize("variant", ["vanilla", "differential"])
def test_with_rotary_positions_only_distances_count(variant):
    here, there = shifted(variant, by=100)
    assert torch.allclose(here, there, atol=1e-5)


def test_gates_decays_and_gains_have_no_weight_decay_and_projections_have():
    training = Training(weight_decay=0.5)
    for variant, names in (
        ("gated-deltanet", ("log_strength", "gate_bias")),
        ("long-short", ("near.gain", "far.shift")),
    ):
        model = model_of(variant)
        decayed, others = (
            {id(weight) for weight in group["params"]}
            for group in make_optimizer(model.parameters(), training).param_groups
        )
        mechanism = model.mechanisms[0]
        assert all(id(mechanism.get_parameter(name)) in others for name in names)
        assert id(model.blocks[0].block.split.weight) in decayed


def outputs(variant: str, *, training: bool, calls: int = 2) -> list[torch.Tensor]:
    model = model_of(variant, layers=1)
    model.train(training)
    torch.manual_seed(5)
    x = torch.randn(2, 16, 32)
    with torch.no_grad():
        return [model.blocks[0].block(x) for _ in range(calls)]


@pytest.mark.parametrize("variant", ["reformer", "smyrf", "sinkhorn"])
def test_random_parts_are_drawn_anew_at_each_call_of_a_training_and_at_no_other(variant, monkeypatch):
    smaller(variant, monkeypatch)
    causal = {} if variant != "smyrf" else {"causal": False}
    monkeypatch.setitem(SIZES, "causal", not causal)
    first, second = outputs(variant, training=True)
    assert not torch.equal(first, second)
    first, second = outputs(variant, training=False)
    assert torch.equal(first, second)
    assert all(map(torch.equal, outputs(variant, training=True), outputs(variant, training=True)))


def smaller(variant: str, monkeypatch) -> None:
    """Give mechanisms blocks that are shorter than the sequences of these tests."""
    options = {"reformer": {"bucket": 4, "rounds": 1}, "smyrf": {"cluster": 4, "rounds": 1}, "sinkhorn": {"block": 4}}
    original = accuracy._mechanisms

    def build(plugin, case, *, seeds):
        return original(plugin, replace(case, options={**case.options, **options[variant]}), seeds=seeds)

    monkeypatch.setattr(accuracy, "_mechanisms", build)


def test_latency_and_agreement_know_nothing_of_it():
    model = model_of("reformer", layers=1)
    mechanism = model.mechanisms[0]
    own = mechanism.rotations
    mechanism.redraw(3)
    assert mechanism.rotations is not own
    mechanism.redraw(None)
    assert mechanism.rotations is own
