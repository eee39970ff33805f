"""Every registered mechanism computes what its paper says, forward and backward, in every dtype."""

import msgspec
import torch

from attnbench.contracts.variant import has_steps
from helpers.subtests import as_subtests
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw, each, each_that, leaves, variant, weights_of
from references import REFERENCES


@each(rest=("full", "full-16", "full-grouped", "causal", "causal-16"))
@as_subtests("options", lambda name: REFERENCES[name].options)
def test_output_and_gradients_equal_the_slow_formulation(name, workload, options):
    case = case_for(name, WORKLOADS[workload], options)
    attention, (q, k, v) = built(name, case), draw(name, case)
    out, true = attention(q, k, v), REFERENCES[name].attend(attention, q, k, v, case)
    assert_near(out, true, 1e-9)
    cotangent = torch.randn_like(out)
    inputs = [*leaves((q, k, v)), *weights_of(attention)]
    gradients = torch.autograd.grad(out, inputs, cotangent, allow_unused=True, materialize_grads=True)
    # A lone token may be its own answer whatever its query, which a loop then never reads.
    expected = torch.autograd.grad(true, inputs, cotangent, allow_unused=True, materialize_grads=True)
    for gradient, its_true_value in zip(gradients, expected, strict=True):
        assert_near(gradient, its_true_value, 1e-9)


@each()
def test_the_output_is_the_same_with_and_without_gradients(name, workload):
    case = case_for(name, WORKLOADS[workload])
    attention, qkv = built(name, case), draw(name, case)
    with_gradients = attention(*qkv)
    with torch.no_grad():
        assert_near(attention(*qkv), with_gradients, 1e-12)


@each("causal-decode")
def test_decoding_gives_the_last_row_of_the_causal_forward(name, workload):
    decode = case_for(name, WORKLOADS[workload])
    forward = case_for(name, WORKLOADS["causal"])
    q, k, v = draw(name, forward)
    assert decode.shape.seq_k == forward.shape.seq_k
    assert_near(built(name, decode)(q[:, :, -1:], k, v), built(name, forward)(q, k, v)[:, :, -1:], 1e-12)


@each_that(lambda name: hasattr(variant(name), "step"), "full-decode", "causal-decode")
def test_a_step_from_a_state_equals_one_query_over_all_keys(name, workload):
    case = case_for(name, WORKLOADS[workload])
    attention, (q, k, v) = built(name, case), (x.detach() for x in draw(name, case))
    assert has_steps(attention)
    state = attention.prefill(k[:, :, :-1], v[:, :, :-1])
    out, _ = attention.step(q, k[:, :, -1:], v[:, :, -1:], state)
    assert_near(out, attention(q, k, v), 1e-12)


@each("full-3", "causal-3", rest=("full-3",))
def test_gradients_equal_finite_differences(name, workload):
    case = case_for(name, WORKLOADS[workload])
    attention, (q, k, v) = built(name, case), draw(name, case)
    inputs = leaves((q, k, v))
    assert torch.autograd.gradcheck(lambda *given: attention(given[0], given[-2], given[-1]), inputs)


@each("full", "causal")
def test_mixed_precision_is_close_to_float64(name, workload):
    case = case_for(name, WORKLOADS[workload], dtype="bfloat16")
    qkv = draw(name, case)
    wide = built(name, msgspec.structs.replace(case, dtype="float64"))
    attention = built(name, case)
    if isinstance(attention, torch.nn.Module):
        attention.float()  # weights stay in float32, as in training
        attention.load_state_dict({key: value.float() for key, value in wide.state_dict().items()})
    widened = {id(x): x.detach().double().requires_grad_() for x in leaves(qkv)}
    true = wide(*(widened[id(x)] for x in qkv))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = attention(*qkv)
        with torch.no_grad():
            assert_near(attention(*qkv), true, 5e-2)
    assert out.dtype == torch.bfloat16
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(out.dtype)
    unread = {"allow_unused": True, "materialize_grads": True}
    learned = weights_of(attention)
    gradients = torch.autograd.grad(out, [*leaves(qkv), *learned], cotangent, **unread)
    expected = torch.autograd.grad(true, [*widened.values(), *weights_of(wide)], cotangent.double(), **unread)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    for gradient, its_true_value in zip(gradients[: len(widened)], expected, strict=False):
        assert_near(gradient, its_true_value, 0.2)


@each("full", "full-16", "full-grouped", "full-window", "causal", "causal-grouped", "causal-window", "causal-decode")
@as_subtests("dtype, tolerance", [("float32", 1e-5), ("float16", 1e-2), ("bfloat16", 5e-2)])
def test_every_dtype_is_close_to_float64(name, workload, dtype, tolerance):
    case = case_for(name, WORKLOADS[workload], dtype=dtype)
    qkv = draw(name, case)
    wide = built(name, msgspec.structs.replace(case, dtype="float64"))
    widened = {id(x): x.detach().double().requires_grad_() for x in leaves(qkv)}
    out, true = built(name, case)(*qkv), wide(*(widened[id(x)] for x in qkv))
    assert_near(out, true, tolerance)
    # Drawn, as features that are normalised sum to nothing, and so would the gradients of their sum be nothing.
    cotangent = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).to(out.dtype)
    unread = {"allow_unused": True, "materialize_grads": True}
    for x, gradient in zip(leaves(qkv), torch.autograd.grad(out, leaves(qkv), cotangent, **unread), strict=True):
        (expected,) = torch.autograd.grad(true, widened[id(x)], cotangent.double(), retain_graph=True, **unread)
        assert gradient.dtype == x.dtype
        assert_near(gradient, expected, 4 * tolerance)
