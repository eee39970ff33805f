import msgspec
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from attnbench import Mask
from attnbench_variants.blocks.feature_sums import attend_by_features, batched, streamed
from laws.memory import peak_bytes
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw, variant


def _linear(length, *, queries=None, causal=True, dtype="float64"):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=queries or length, seq_k=length)
    return case_for("linear", WORKLOADS["full"], shape=shape, mask=Mask(causal=causal), dtype=dtype)


def _features(*lengths):
    """Draw queries and keys that are features already, above zero, and values."""
    return [torch.rand(3, length, 4, dtype=torch.float64) for length in lengths]


def _attend(form, q, k, v, *, causal=True):
    return form(q, k, v, features=lambda x: x, causal=causal)


def _by_all_pairs(q, k, v, *, causal=True):
    weights = q @ k.transpose(1, 2)
    if causal:
        weights = weights.tril(k.shape[1] - q.shape[1])
    return weights @ v / weights.sum(dim=2, keepdim=True)


@pytest.mark.parametrize("form", [streamed, batched])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (63, 63), (64, 64), (128, 128), (300, 300), (1, 300), (70, 300)])
def test_chunks_with_a_state_equal_a_weight_for_every_pair(form, causal, queries, keys):
    q, k, v = _features(queries, keys, keys)
    assert_near(_attend(form, q, k, v, causal=causal), _by_all_pairs(q, k, v, causal=causal), 1e-13)


def test_a_state_carried_token_by_token_equals_chunks():
    q, k, v = _features(200, 200, 200)
    state, weight, steps = torch.zeros(3, 4, 4, dtype=torch.float64), torch.zeros(3, 4, dtype=torch.float64), []
    for t in range(200):
        state = state + k[:, t, :, None] * v[:, t, None]
        weight = weight + k[:, t]
        steps.append((q[:, t, :, None] * state).sum(dim=1) / (q[:, t] * weight).sum(dim=1, keepdim=True))
    assert_near(_attend(streamed, q, k, v), torch.stack(steps, dim=1), 1e-13)


@pytest.mark.parametrize("kv_heads", [2, 1])
@pytest.mark.parametrize("before", [0, 1, 150])
def test_steps_after_a_prefill_equal_the_causal_whole(before, kv_heads):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=200, seq_k=200, kv_heads=kv_heads)
    case = case_for("linear", WORKLOADS["full"], shape=shape, mask=Mask(causal=True))
    attention, (q, k, v) = built("linear", case), (x.detach() for x in draw("linear", case))
    state, steps = attention.prefill(k[:, :, :before], v[:, :, :before]), []
    for t in range(before, 200):
        out, state = attention.step(q[:, :, t : t + 1], k[:, :, t : t + 1], v[:, :, t : t + 1], state)
        steps.append(out)
    assert_near(torch.cat(steps, dim=2), attention(q, k, v)[:, :, before:], 1e-13)


def test_a_step_leaves_its_state_as_it_was():
    attention, (q, k, v) = built("linear", _linear(30)), (x.detach() for x in draw("linear", _linear(30)))
    state = attention.prefill(k[:, :, :-1], v[:, :, :-1])
    before = state.clone()
    (one, _), (two, _) = (attention.step(q[:, :, -1:], k[:, :, -1:], v[:, :, -1:], state) for _ in range(2))
    assert torch.equal(state, before)
    assert torch.equal(one, two)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_state_in_half_precision_is_held_in_float32(dtype):
    case = _linear(30, dtype=dtype)
    _, k, v = (x.detach() for x in draw("linear", case))
    assert built("linear", case).prefill(k, v).dtype == torch.float32


@pytest.mark.parametrize("kv_heads", [2, 1])
def test_the_operations_of_a_step_are_those_that_torch_counts_and_the_same_at_any_length(kv_heads):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=1, kv_heads=kv_heads)
    case = case_for("linear", WORKLOADS["causal-decode"], shape=shape)
    attention, (q, k, v) = built("linear", case), (x.detach() for x in draw("linear", case))
    state = attention.prefill(k, v)
    with FlopCounterMode(display=False) as counter:
        attention.step(q, k[:, :, :1], v[:, :, :1], state)
    longer = msgspec.structs.replace(case, shape=msgspec.structs.replace(shape, seq_k=4096))
    assert counter.get_total_flops() == variant("linear").flops(case) == variant("linear").flops(longer)


def test_the_form_for_gradients_gives_the_gradients_of_a_weight_for_every_pair():
    q, k, v = (x.requires_grad_() for x in _features(150, 170, 170))
    cotangent = torch.rand(3, 150, 4, dtype=torch.float64)
    gradients = torch.autograd.grad(_attend(attend_by_features, q, k, v), (q, k, v), cotangent)
    expected = torch.autograd.grad(_by_all_pairs(q, k, v), (q, k, v), cotangent)
    for gradient, true in zip(gradients, expected, strict=True):
        assert_near(gradient, true, 1e-12)


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


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("passes", ["forward", "forward-backward"])
def test_memory_grows_with_the_length_and_not_with_its_square(causal, passes):
    def peak(length):
        case = _linear(length, causal=causal, dtype="float32")
        attention, qkv = built("linear", case), draw("linear", case)
        with torch.set_grad_enabled(passes == "forward-backward"):
            return peak_bytes(lambda: attention(*qkv))

    assert peak(4096) < 2.2 * peak(2048)
