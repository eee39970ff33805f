import msgspec
import torch

from attnbench import Mask
from helpers.subtests import as_subtests
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw


def _retention(length, *, heads=2, kv_heads=2):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=length, seq_k=length, heads=heads, kv_heads=kv_heads)
    return case_for("retention", WORKLOADS["causal"], shape=shape, mask=Mask(causal=True))


@as_subtests("kv_heads", [8, 2])
def test_earlier_tokens_have_decayed_by_the_factor_of_each_head(kv_heads):
    case = _retention(200, heads=8, kv_heads=kv_heads)
    q, k, v = (torch.zeros_like(x) for x in draw("retention", case))
    q[..., 0], k[:, :, 0, 0], v[:, :, 0, 0] = 1, 1, 1
    out = built("retention", case)(q, k, v)
    for head in range(8):
        steps = torch.arange(200, dtype=torch.float64)
        assert_near(out[0, head, :, 0], (1 - 2.0 ** (-5 - head)) ** steps / 2, 1e-12)  # sqrt(D) is 2


def test_a_repeated_token_adds_up_to_a_geometric_sum():
    case = _retention(3000)
    q, k, v = (torch.ones_like(x) for x in draw("retention", case))
    out = built("retention", case)(q, k, v)
    assert_near(out[:, 0, -1], torch.full((2, 4), 2 * 2.0**5, dtype=torch.float64), 1e-12)  # q . k / sqrt(D) is 2
