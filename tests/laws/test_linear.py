import msgspec
import pytest
import torch

from attnbench import Mask
from attnbench_variants.blocks.feature_sums import attend_by_features, batched, streamed
from laws.memory import peak_bytes
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw


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
