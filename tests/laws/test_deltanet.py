import msgspec
import torch
from torch.nn.functional import normalize

from attnbench import Mask
from attnbench_variants.linear.scan import Writes, attend_by_recurrence
from helpers.subtests import as_subtests
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw


def _deltanet(length=200, **options):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=length, seq_k=length)
    given = {"norm": "none", **options}
    case = case_for("deltanet", WORKLOADS["causal"], given, shape=shape, mask=Mask(causal=True))
    return built("deltanet", case), draw("deltanet", case)


def test_a_key_that_is_written_again_returns_only_its_last_value():
    keys_XSD = torch.eye(8, dtype=torch.float64)[torch.randint(8, (1, 200))]
    values_XSE = torch.randn(1, 200, 5, dtype=torch.float64)
    writes = Writes(keys_XSD, values_XSE, torch.zeros(1, 1, 1), torch.ones(1, 200, 1, dtype=torch.float64))
    asked_XTD = torch.eye(8, dtype=torch.float64)[None]
    out = attend_by_recurrence(torch.cat([keys_XSD[:, :-8], asked_XTD], dim=1), writes)[0, -1]
    last = int((keys_XSD[0, :, 7] == 1).nonzero().max())
    assert_near(out, values_XSE[0, last], 1e-12)


def test_values_that_agree_with_the_state_change_nothing():
    attention, (q, k, _) = _deltanet(100)
    mapping = torch.randn(4, 4, dtype=torch.float64)
    f = attention.writes(k, k).k_XSD.view_as(k)
    out = attention(q, k, f @ mapping)
    wanted = attention.queries(q) @ mapping
    assert (out[:, :, -1] - wanted[:, :, -1]).norm() < 0.2 * (out[:, :, 2] - wanted[:, :, 2]).norm()


@as_subtests("activation", ["silu", "identity"])
def test_queries_and_keys_are_of_length_one(activation):
    attention, (q, k, v) = _deltanet(activation=activation)
    wanted = normalize(q * q.sigmoid() if activation == "silu" else q, dim=-1)
    assert_near(attention.queries(q), wanted, 1e-3)
    assert (attention.writes(k, v).k_XSD.norm(dim=-1) - 1).abs().max() < 0.1


def test_repeated_keys_do_not_cost_the_float32_solve_its_precision():
    k = normalize(torch.ones(1, 300, 8), dim=-1)
    v, beta = torch.randn(1, 300, 8), torch.full((1, 300, 1), 0.99)
    narrow = attend_by_recurrence(k, Writes(k, v, torch.zeros(1, 1, 1), beta))
    wide = Writes(k.double(), v.double(), torch.zeros(1, 1, 1, dtype=torch.float64), beta.double())
    assert_near(narrow, attend_by_recurrence(k.double(), wide), 1e-5)


def test_strengths_are_learned_shares():
    attention, (q, k, v) = _deltanet()
    assert 0 < attention.strengths(k).min() < attention.strengths(k).max() < 1
    attention(q, k, v).square().sum().backward()
    assert attention.write_weight.grad.norm() > 0
