import msgspec
import torch

from attnbench import Mask
from helpers.subtests import as_subtests
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw


def _gla(length=200, *, dtype="float64", **options):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=length, seq_k=length)
    given = {"norm": "none", **options}
    case = case_for("gla", WORKLOADS["causal"], given, shape=shape, mask=Mask(causal=True), dtype=dtype)
    return built("gla", case), draw("gla", case)


def _biased(attention, bias):
    for weight in (attention.gate_up, attention.gate_bias):
        weight.data.fill_(0)
    attention.gate_bias.data.fill_(bias)
    return attention


def test_with_open_gates_it_sums_over_all_earlier_keys():
    attention, (q, k, v) = _gla()
    assert_near(_biased(attention, 1e3)(q, k, v), (q @ k.mT / 2).tril() @ v, 1e-12)  # sqrt(D) is 2


@as_subtests("dtype", ["float64", "float32"])
def test_with_closed_gates_a_token_sees_itself_alone_and_gradients_stay_finite(dtype):
    attention, (q, k, v) = _gla(dtype=dtype)
    out = _biased(attention, -1e5)(q, k, v)
    assert_near(out, (q * k).sum(-1, keepdim=True) / 2 * v, 1e-6 if dtype == "float32" else 1e-12)
    gradients = torch.autograd.grad(out.sum(), (q, k, v, *attention.parameters()))
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_each_feature_of_a_key_decays_at_its_own_pace():
    attention, (q, k, v) = _gla(100)
    _biased(attention, 0).gate_bias.data.copy_(torch.tensor([-3.0, 0.0, 1.0, 5.0]))
    gate = torch.tensor([-3.0, 0.0, 1.0, 5.0], dtype=torch.float64).sigmoid() ** (1 / 16)
    for feature in range(4):
        alone = torch.zeros_like(k)
        alone[:, :, 0, feature] = k[:, :, 0, feature].detach()
        decayed = gate[feature] ** torch.arange(100)[:, None] * (
            q[..., feature : feature + 1] * alone[:, :, :1, feature:][..., :1]
        )
        assert_near(attention(q, alone, v), decayed / 2 * v[:, :, :1], 1e-12)


def test_the_temperature_is_the_root_that_is_taken_of_a_gate():
    (slow, (_, k, _)), (fast, _) = _gla(temperature=16.0), _gla(temperature=2.0)
    assert_near(slow.gates(k) * 8, fast.gates(k), 1e-12)
    assert slow.gates(k).max() < 0
    assert slow.gates(k).exp().min() > 0.5


def test_the_rank_is_that_of_what_makes_the_gates():
    attention, (_, k, _) = _gla(rank=2)
    logits = (attention.gates(k) * 16).exp().logit() - attention.gate_bias
    assert torch.linalg.matrix_rank(logits[0, 0], rtol=1e-9) == 2


def test_gates_are_learned():
    attention, qkv = _gla()
    attention(*qkv).square().sum().backward()
    assert all(parameter.grad.norm() > 0 for parameter in attention.parameters())
