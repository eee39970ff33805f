import msgspec
import pytest
import torch

from attnbench import Mask
from helpers.subtests import as_subtests
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw


def _case(name, queries, keys, *, causal, options=None):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=queries, seq_k=keys)
    return case_for(name, WORKLOADS["full"], options, shape=shape, mask=Mask(causal=causal))


def _above_zero(name, case):
    q, k, v = (x.detach() for x in draw(name, case))
    return q.abs(), k.abs(), v


@as_subtests("causal", [True, False])
def test_equal_keys_are_weighted_by_the_cosine_of_their_distance(causal):
    case = _case("cosformer", 12, 12, causal=causal)
    q, k, v = _above_zero("cosformer", case)
    distances = torch.arange(12.0, dtype=torch.float64)[:, None] - torch.arange(12)
    weights = (torch.pi / 2 * distances / 12).cos()
    weights = weights.tril() if causal else weights
    out = built("cosformer", case)(q, torch.ones_like(k), v)
    assert_near(out, weights / weights.sum(dim=1, keepdim=True) @ v, 1e-12)


def test_without_distances_it_is_linear_attention_with_relu_features():
    case = _case("cosformer", 12, 12, causal=False)
    q, k, v = _above_zero("cosformer", case)
    near = _case("linear", 12, 12, causal=False, options={"features": "relu"})
    attention = built("cosformer", case)
    attention._features._turns_T21[:, 0], attention._features._turns_T21[:, 1] = 1, 0
    assert_near(attention(q, k, v), built("linear", near)(q, k, v), 1e-13)


@as_subtests("queries, keys", [(30, 7), (7, 30)])
def test_queries_and_keys_of_different_number_end_at_one_position_and_no_weight_is_below_zero(queries, keys):
    case = _case("cosformer", queries, keys, causal=False)
    q, k, v = _above_zero("cosformer", case)
    picked = torch.zeros_like(v)
    picked[:, :, -1] = 1
    weights = built("cosformer", case)(torch.ones_like(q), torch.ones_like(k), picked)[0, 0, :, 0]
    assert (weights > 0).all()
    assert weights.argmax() == queries - 1


def test_a_step_beyond_the_length_that_the_cosine_was_made_for_is_refused():
    case = _case("cosformer", 1, 9, causal=True)
    attention, (q, k, v) = built("cosformer", case), _above_zero("cosformer", case)
    state = attention.prefill(k, v)
    with pytest.raises(ValueError, match="9 positions"):
        attention.step(q, k[:, :, :1], v[:, :, :1], state)
