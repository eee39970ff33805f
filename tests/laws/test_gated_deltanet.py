import msgspec
import pytest
import torch

from attnbench import Mask
from helpers.subtests import as_subtests
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw


def _gated(length=200, *, name="gated-deltanet", dtype="float64", **options):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=length, seq_k=length)
    given = {"norm": "none", **options}
    case = case_for(name, WORKLOADS["causal"], given, shape=shape, mask=Mask(causal=True), dtype=dtype)
    return built(name, case), draw(name, case)


def test_with_open_gates_it_is_the_delta_rule():
    (gated, qkv), (plain, _) = _gated(), _gated(name="deltanet")
    gated.log_strength.data.fill_(-1e3)
    plain.write_weight.data.copy_(gated.write_weight)
    assert_near(gated(*qkv), plain(*qkv), 1e-12)


@as_subtests("dtype", ["float64", "float32"])
def test_with_closed_gates_a_token_sees_itself_alone_and_gradients_stay_finite(dtype):
    attention, (q, k, v) = _gated(dtype=dtype)
    attention.log_strength.data.fill_(12)
    attention.gate_bias.data.fill_(5)
    out = attention(q, k, v)
    f, g = attention.writes(k, v).k_XSD.view_as(k), attention.queries(q)
    alone = attention.strengths(k) * (f * g).sum(-1, keepdim=True) * v
    assert_near(out, alone, 1e-6 if dtype == "float32" else 1e-12)
    gradients = torch.autograd.grad(out.sum(), (q, k, v, *attention.parameters()))
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_gates_start_as_in_mamba2():
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, heads=512, kv_heads=512)
    attention = built("gated-deltanet", case_for("gated-deltanet", WORKLOADS["causal"], shape=shape))
    strengths, steps = attention.log_strength.exp(), torch.nn.functional.softplus(attention.gate_bias)
    assert 0 < strengths.min() < 1
    assert 15 < strengths.max() <= 16
    assert 0.001 <= steps.min() < 0.0012
    assert 0.08 < steps.max() <= 0.1
    assert steps.detach().log().mean().exp().item() == pytest.approx(0.01, rel=0.2)


def test_gates_and_strengths_are_learned_shares():
    attention, (q, k, v) = _gated()
    assert attention.gates(k).max() < 0
    assert 0 < attention.strengths(k).min() < attention.strengths(k).max() < 1
    attention(q, k, v).square().sum().backward()
    assert all(parameter.grad.norm() > 0 for parameter in attention.parameters())
