"""The kept mass and the weight on hidden keys, worked out by hand."""

import pytest
import torch

from attnbench.contracts.case import Mask
from attnbench.measure.reference import chosen_rows, heaviest_keys
from attnbench.measure.weights import weigh
from helpers.subtests import as_subtests

CAUSAL = Mask(causal=True)


def test_the_heaviest_keys_are_those_of_the_whole_softmax() -> None:
    q, k = (torch.randn(2, 4, 30, 8) for _ in range(2))
    k = k[:, :2]
    rows = torch.tensor([3, 20, 29])
    weights, keys = heaviest_keys(q, k, mask=CAUSAL, rows_R=rows, count=5)
    scores = q.double() @ k.double().repeat_interleave(2, dim=1).mT / 8**0.5
    hidden = torch.ones(30, 30, dtype=torch.bool).triu(1)
    whole = scores.masked_fill(hidden, -torch.inf).softmax(-1)[:, :, rows]
    torch.testing.assert_close(weights, whole.topk(5).values)
    torch.testing.assert_close(whole.gather(-1, keys), weights)


def test_few_rows_are_all_and_many_are_drawn_for_the_weights() -> None:
    cpu = torch.device("cpu")
    assert len(chosen_rows(256, seed=0, device=cpu, all_up_to=256)) == 256
    assert len(chosen_rows(300, seed=0, device=cpu, all_up_to=256)) == 256
    assert len(set(chosen_rows(300, seed=0, device=cpu, all_up_to=256).tolist())) == 256


@as_subtests("factor, kept", [(1.0, 1.0), (0.25, 0.25), (3.0, 1.0), (-1.0, 0.0)])
def test_what_is_kept_is_the_lesser_of_both_weights_and_none_below_zero(factor: float, kept: float) -> None:
    q, k, v = (torch.randn(2, 3, 40, 8, dtype=torch.float64) for _ in range(3))

    def scaled(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return factor * torch.softmax(q @ k.mT / 8**0.5, -1) @ v

    assert weigh(scaled, (q, k, v), mask=Mask(), seed=0).kept == pytest.approx(kept)


def test_uniform_weights_keep_what_they_share_with_the_heaviest() -> None:
    q, k, v = (torch.randn(1, 1, 40, 8, dtype=torch.float64) for _ in range(3))
    top = torch.softmax(q @ k.mT / 8**0.5, -1).topk(16).values
    wanted = (top.clamp(max=1 / 40).sum(-1) / top.sum(-1)).mean()
    found = weigh(lambda _q, _k, v: v.mean(2, keepdim=True).expand_as(v), (q, k, v), mask=Mask(), seed=0)
    assert found.kept == pytest.approx(float(wanted))


def test_weight_on_hidden_keys_is_the_largest_share_of_a_row() -> None:
    q, k, v = (torch.randn(1, 1, 10, 8, dtype=torch.float64) for _ in range(3))
    found = weigh(lambda _q, _k, v: v.mean(2, keepdim=True).expand_as(v), (q, k, v), mask=CAUSAL, seed=0)
    assert found.hidden == pytest.approx(0.9)
