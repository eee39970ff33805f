import msgspec
import pytest
import torch

from attnbench import Mask
from attnbench_variants.blocks.causal_product import batched, causal_product, running
from laws.memory import peak_bytes
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw


def _linear(length, *, queries=None, causal=True, dtype="float64"):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=queries or length, seq_k=length)
    return case_for("linear", WORKLOADS["full"], shape=shape, mask=Mask(causal=causal), dtype=dtype)


def _features(*lengths):
    return [torch.rand(3, length, width, dtype=torch.float64) for length, width in zip(lengths, (4, 4, 5), strict=True)]


@pytest.mark.parametrize("form", [running, batched])
@pytest.mark.parametrize("length", [1, 63, 64, 65, 128, 300])
def test_chunks_with_a_state_equal_the_whole_lower_triangle(form, length):
    q, k, v = _features(length, length, length)
    before = torch.rand(3, 4, 5, dtype=torch.float64)
    expected = (q @ k.transpose(1, 2)).tril() @ v + q @ before
    assert_near(form(q, k, v, before.clone()), expected, 1e-13)


def test_a_state_carried_token_by_token_equals_chunks():
    q, k, v = _features(200, 200, 200)
    state = torch.zeros(3, 4, 5, dtype=torch.float64)
    steps = []
    for t in range(200):
        state = state + k[:, t, :, None] * v[:, t, None]
        steps.append((q[:, t, None] @ state)[:, 0])
    assert_near(causal_product(q, k, v), torch.stack(steps, dim=1), 1e-13)


def test_fewer_queries_than_keys_are_the_last_rows():
    q, k, v = _features(300, 300, 300)
    assert_near(causal_product(q[:, -70:], k, v), causal_product(q, k, v)[:, -70:], 1e-13)


def test_the_form_for_gradients_gives_the_gradients_of_the_whole_triangle():
    q, k, v = (x.requires_grad_() for x in _features(150, 150, 150))
    cotangent = torch.rand(3, 150, 5, dtype=torch.float64)
    gradients = torch.autograd.grad(causal_product(q, k, v), (q, k, v), cotangent)
    expected = torch.autograd.grad((q @ k.transpose(1, 2)).tril() @ v, (q, k, v), cotangent)
    for gradient, true in zip(gradients, expected, strict=True):
        assert_near(gradient, true, 1e-13)


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
