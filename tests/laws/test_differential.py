import pytest
import torch
from msgspec.structs import replace

from attnbench import Mask, Unsupported
from helpers.subtests import as_subtests
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw


@as_subtests("mask", [Mask(), Mask(causal=True)])
def test_without_the_second_softmax_it_is_exact_attention_over_the_first_half_of_the_features(mask):
    case = case_for("differential", WORKLOADS["full"], {"norm": "none"}, mask=mask)
    attention, (q, k, v) = built("differential", case), draw("differential", case)
    with torch.no_grad():  # l = exp(0) - exp(a2 . b2) + l0 with l0 = 0.2
        attention.exponents.zero_()
        attention.exponents[1] = (torch.tensor(1.2).log() / 2) ** 0.5
    half = torch.zeros_like(q[..., :2])
    q_first = torch.cat([q[..., :2] * 2**0.5, half], dim=-1)
    exact = built("vanilla", case_for("vanilla", case))(q_first, k, v)
    assert_near(attention(q, k, v), exact, 1e-6)


def test_an_odd_number_of_features_is_refused():
    shape = replace(WORKLOADS["full"].shape, head_dim=5)
    with pytest.raises(Unsupported, match="5 are odd"):
        built("differential", case_for("differential", WORKLOADS["full"], shape=shape))


def test_a_head_of_the_first_layer_starts_at_a_fifth_and_of_a_deep_one_near_four_fifths():
    case = case_for("differential", WORKLOADS["full"], {"layer": 1})
    deep = case_for("differential", WORKLOADS["full"], {"layer": 30})
    assert built("differential", case).subtracted.item() == pytest.approx(0.2, abs=0.1)
    assert built("differential", deep).subtracted.item() == pytest.approx(0.8, abs=0.1)
