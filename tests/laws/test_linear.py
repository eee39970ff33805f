"""Attention by sums of features equals a weight for every pair, whichever features they are; and linear's own laws."""

import msgspec
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from attnbench import Mask
from attnbench_variants.linear import feature_attention
from attnbench_variants.linear.feature_attention import FeatureMap, Sizes, attend_by_features
from laws.memory import peak_bytes
from laws.operations import IN_PLACE
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw, variant

MECHANISMS = {
    "elu": ("linear", {}),
    "relu": ("linear", {"features": "relu"}),
    "softmax": ("linear", {"features": "softmax"}),
    "performer": ("performer", {"features": 12}),
    "performer-relu": ("performer", {"features": 12, "kernel": "relu"}),
    "cosformer": ("cosformer", {}),
    "based": ("based", {"feature_dim": 3}),
}
every_mechanism = pytest.mark.parametrize(("name", "options"), MECHANISMS.values(), ids=MECHANISMS)


def _case(name, length, options=None, *, queries=None, kv_heads=2, causal=True, **changes):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=queries or length, seq_k=length, kv_heads=kv_heads)
    return case_for(name, WORKLOADS["full"], options, shape=shape, mask=Mask(causal=causal), **changes)


def _linear(length, **changes):
    return _case("linear", length, {}, **changes)


def _features(*lengths):
    """Draw queries and keys that are features already, above zero, and values."""
    return [torch.rand(3, length, 4, dtype=torch.float64) for length in lengths]


class Given(FeatureMap):
    def keys(self, x_XTD, first):
        return x_XTD


def _attend(q, k, v, *, causal=True):
    return attend_by_features(q, k, v, features=Given(), causal=causal)


def _by_all_pairs(q, k, v, *, causal=True):
    weights = q @ k.transpose(1, 2)
    if causal:
        weights = weights.tril(k.shape[1] - q.shape[1])
    return weights @ v / weights.sum(dim=2, keepdim=True)


@pytest.mark.parametrize("tracked", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (63, 63), (64, 64), (128, 128), (300, 300), (1, 300), (70, 300)])
def test_chunks_with_a_state_equal_a_weight_for_every_pair(tracked, causal, queries, keys):
    q, k, v = _features(queries, keys, keys)
    with torch.set_grad_enabled(tracked):
        assert_near(_attend(q, k, v, causal=causal), _by_all_pairs(q, k, v, causal=causal), 1e-13)


def test_a_state_carried_token_by_token_equals_chunks():
    q, k, v = _features(200, 200, 200)
    state, weight, steps = torch.zeros(3, 4, 4, dtype=torch.float64), torch.zeros(3, 4, dtype=torch.float64), []
    for t in range(200):
        state = state + k[:, t, :, None] * v[:, t, None]
        weight = weight + k[:, t]
        steps.append((q[:, t, :, None] * state).sum(dim=1) / (q[:, t] * weight).sum(dim=1, keepdim=True))
    assert_near(_attend(q, k, v), torch.stack(steps, dim=1), 1e-13)


@every_mechanism
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [(200, 200), (70, 200)])
def test_one_chunk_after_another_equals_all_at_once(monkeypatch, name, options, causal, queries, keys):
    case = _case(name, keys, options, queries=queries, causal=causal)
    attention, qkv = built(name, case), draw(name, case)
    all_at_once = attention(*qkv)
    for sizes in (Sizes(1, 16, 16), Sizes(2**10, 24, 8), Sizes(2**26, 4096, 256)):
        monkeypatch.setattr(feature_attention, "_sizes", lambda _, sizes=sizes: sizes)
        assert_near(attention(*qkv), all_at_once, 1e-13)


@every_mechanism
@pytest.mark.parametrize("kv_heads", [2, 1])
@pytest.mark.parametrize("before", [0, 1, 150])
def test_steps_after_a_prefill_equal_the_causal_whole(name, options, before, kv_heads):
    case = _case(name, 200, options, kv_heads=kv_heads)
    attention, (q, k, v) = built(name, case), (x.detach() for x in draw(name, case))
    state, steps = attention.prefill(k[:, :, :before], v[:, :, :before]), []
    for t in range(before, 200):
        out, state = attention.step(q[:, :, t : t + 1], k[:, :, t : t + 1], v[:, :, t : t + 1], state)
        steps.append(out)
    assert_near(torch.cat(steps, dim=2), attention(q, k, v)[:, :, before:], 1e-12)


@every_mechanism
def test_a_step_leaves_its_state_as_it_was(name, options):
    case = _case(name, 30, options)
    attention, (q, k, v) = built(name, case), (x.detach() for x in draw(name, case))
    *state, position = attention.prefill(k[:, :, :-1], v[:, :, :-1])
    before = [x.clone() for x in state]
    one, two = (attention.step(q[:, :, -1:], k[:, :, -1:] * 5, v[:, :, -1:], (*state, position))[0] for _ in range(2))
    assert all(torch.equal(x, copy) for x, copy in zip(state, before, strict=True))
    assert torch.equal(one, two)


@every_mechanism
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_state_in_half_precision_is_held_in_float32(name, options, dtype):
    case = _case(name, 30, options, dtype=dtype)
    _, k, v = (x.detach() for x in draw(name, case))
    *tensors, _ = built(name, case).prefill(k, v)
    assert {x.dtype for x in tensors} == {torch.float32}


@every_mechanism
@pytest.mark.parametrize("kv_heads", [2, 1])
def test_the_operations_of_a_step_are_those_that_torch_counts_and_the_same_at_any_length(name, options, kv_heads):
    case = _case(name, 21, options, queries=1, kv_heads=kv_heads, passes="decode")
    attention, (q, k, v) = built(name, case), (x.detach() for x in draw(name, case))
    state = attention.prefill(k[:, :, 1:], v[:, :, 1:])
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        attention.step(q, k[:, :, :1], v[:, :, :1], state)
    longer = msgspec.structs.replace(case, shape=msgspec.structs.replace(case.shape, seq_k=4096))
    assert counter.get_total_flops() == variant(name).flops(case) == variant(name).flops(longer)


@every_mechanism
@pytest.mark.parametrize("causal", [True, False])
def test_the_operations_of_a_call_are_those_that_torch_counts(name, options, causal):
    case = _case(name, 150, options, causal=causal, passes="forward")
    attention, qkv = built(name, case), draw(name, case)
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        attention(*qkv)
    assert counter.get_total_flops() == variant(name).flops(case)


@every_mechanism
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("queries", [350, 40])
def test_the_operations_of_a_call_for_gradients_are_those_that_torch_counts(name, options, causal, queries):
    case = _case(name, 350, options, queries=queries, causal=causal, passes="forward-backward")
    attention, qkv = built(name, case), draw(name, case)
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        attention(*qkv).sum().backward()
    assert counter.get_total_flops() == variant(name).flops(case)


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (40, 41), (150, 170), (256, 256), (300, 301), (600, 700)])
def test_gradients_are_those_of_a_weight_for_every_pair(queries, keys):
    q, k, v = (x.requires_grad_() for x in _features(queries, keys, keys))
    cotangent = torch.rand(3, queries, 4, dtype=torch.float64)
    gradients = torch.autograd.grad(_attend(q, k, v), (q, k, v), cotangent)
    expected = torch.autograd.grad(_by_all_pairs(q, k, v), (q, k, v), cotangent)
    for gradient, true in zip(gradients, expected, strict=True):
        assert_near(gradient, true, 1e-12)


@every_mechanism
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("passes", ["forward", "forward-backward"])
def test_memory_grows_with_the_length_and_not_with_its_square(name, options, causal, passes):
    def peak(length):
        case = _case(name, length, options, causal=causal, dtype="float32")
        attention, qkv = built(name, case), draw(name, case)
        with torch.set_grad_enabled(passes == "forward-backward"):
            return peak_bytes(lambda: attention(*qkv))

    assert peak(4096) < 2.2 * peak(2048)


@every_mechanism
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("tracked", [True, False])
def test_large_queries_and_keys_give_an_average_of_the_values(name, options, causal, tracked):
    case = _case(name, 80, options, causal=causal, dtype="float32")
    q, k, v = (x.detach() for x in draw(name, case))
    with torch.set_grad_enabled(tracked):
        out = built(name, case)((40 * q).requires_grad_(tracked), 40 * k, v)
    assert torch.isfinite(out).all()
    assert out.abs().max() <= v.abs().max() * (1 + 1e-5)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("features", ["relu", "softmax", "elu"])
def test_one_key_is_all_that_its_query_sees(features, causal):
    case = _case("linear", 1, {"features": features}, causal=causal)
    q, k, v = (x.detach().abs() for x in draw("linear", case))
    assert_near(built("linear", case)(q, k, v), v, 1e-14)


def test_a_query_that_shares_no_feature_with_any_key_gets_zeros():
    case = _case("linear", 9, {"features": "relu"})
    q, k, v = (x.detach().abs() for x in draw("linear", case))
    q[:, :, 4] *= -1
    out = built("linear", case)(q, k, v)
    assert not out[:, :, 4].any()
    assert out[:, :, 5:].any(dim=-1).all()


def test_a_query_without_weights_changes_no_gradient():
    q, k, v = _features(300, 300, 300)
    q[:, 270] = 0
    weighed = torch.arange(300) != 270
    gradients = []
    for seen in (torch.ones(300, dtype=torch.bool), weighed):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        (_attend(*leaves)[:, seen] * torch.linspace(-1, 1, 4)).sum().backward()
        gradients.append([x.grad for x in leaves])
    (_, *of_all), (_, *of_weighed) = gradients
    assert all(torch.isfinite(x).all() for each in gradients for x in each)
    for gradient, same in zip(of_all, of_weighed, strict=True):
        assert_near(gradient, same, 1e-14)


def test_a_causal_row_of_softmax_features_is_what_the_full_form_gives_for_its_prefix():
    case = _case("linear", 30, {"features": "softmax"})
    q, k, v = (x.detach() for x in draw("linear", case))
    out = built("linear", case)(q, k, v)
    for seen in (1, 2, 17, 30):
        prefix = _case("linear", seen, {"features": "softmax"}, causal=False)
        row = built("linear", prefix)(q[:, :, :seen], k[:, :, :seen], v[:, :, :seen])[:, :, -1]
        assert_near(out[:, :, seen - 1], row, 1e-12)


@pytest.mark.parametrize("causal", [True, False])
def test_queries_far_below_zero_still_have_weights(causal):
    case = _linear(40, causal=causal, dtype="float32")
    q, k, v = (x.detach() for x in draw("linear", case))
    out = built("linear", case)(q - 40, k - 40, v)
    assert torch.isfinite(out).all()
    assert out.abs().max() <= v.abs().max()


@pytest.mark.parametrize("causal", [True, False])
def test_long_sums_in_half_precision_neither_overflow_nor_stall(causal):
    case = _linear(8192, causal=causal, dtype="float16")
    q, k, v = (x.detach() for x in draw("linear", case))
    out = built("linear", case)(q, k.abs() * 4, v + 1)
    assert torch.isfinite(out).all()
    assert (out[:, :, -1].float() - 1).abs().max() < 0.1


@pytest.mark.parametrize("name", ["performer", "linear"])
@pytest.mark.parametrize("gradients", [True, False])
def test_large_keys_of_later_chunks_change_no_earlier_row(name, gradients):
    options = {"features": "softmax"} if name == "linear" else {"features": 64}
    case = _case(name, 512, options, dtype="float32")
    attention, (q, k, v) = built(name, case), draw(name, case)
    larger = torch.cat([k[:, :, :256], 300 * k[:, :, 256:]], dim=2)
    with torch.set_grad_enabled(gradients):
        assert_near(attention(q, larger, v)[:, :, :256], attention(q, k, v)[:, :, :256], 1e-5)
