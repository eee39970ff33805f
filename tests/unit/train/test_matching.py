"""Models of equal size or of equal state: the width at which a variant is compared."""

import pytest
from msgspec.structs import replace

from attnbench.contracts.case import Mask, Shape
from attnbench.plugins.registry import find, load
from attnbench.train import accuracy
from attnbench.train.matching import state_size
from helpers.planted import job
from unit.train.test_accuracy import MQAR, exam, measured
from unit.train.toys import silently


def facts(variant: str, **given: object) -> dict:
    return measured(variant, "mqar", **{**MQAR, "layers": 1, "heads": 2, "causal": True} | given).facts


def test_matched_in_parameters_a_model_of_tied_projections_is_wider_and_of_about_the_same_size():
    base, tied = facts("vanilla", width=32), facts("reformer", width=32)
    matched = facts("reformer", width=32, match="parameters")
    assert matched["width"] > 32
    assert abs(matched["parameters"] - base["parameters"]) < base["parameters"] - tied["parameters"]


def test_matched_in_state_a_fixed_state_is_about_as_large_as_the_keys_and_values_of_exact_attention():
    width = facts("linear", match="state")["width"]
    cache = 2 * MQAR["length"] * MQAR["width"]
    sizes = {each: state_of("linear", each) for each in (width - 2, width, width + 2)}
    assert min(sizes, key=lambda each: abs(sizes[each] - cache)) == width


@pytest.mark.parametrize("match", ["parameters", "state"])
def test_exact_attention_is_matched_by_itself(match):
    assert facts("vanilla", match=match)["width"] == MQAR["width"]


def test_a_mechanism_without_a_state_keeps_all_keys_and_values():
    assert state_of("vanilla", 8) == 2 * 16 * 8


def test_a_matched_model_is_restored_from_its_checkpoint(tmp_path):
    planned = exam("linear", "mqar", **{**MQAR, "layers": 1, "causal": True, "match": "state"})
    outcome = accuracy.measure(planned, silently, checkpoint=tmp_path / "it.pt")
    _, model = accuracy.load_best(tmp_path / "it.pt")
    assert model.size == outcome.facts["parameters"]


def state_of(variant: str, width: int) -> int:
    shape = Shape(batch=1, heads=2, kv_heads=2, seq_q=16, seq_k=16, head_dim=width // 2)
    case = replace(job(variant).case, shape=shape, mask=Mask(causal=True), passes="")
    return state_size(load(find(variant, "variants", flag="").target), case)
