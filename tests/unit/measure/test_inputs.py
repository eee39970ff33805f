"""Inputs follow from the seed alone, and are distributed as they say."""

import math

import pytest
import torch
from msgspec.structs import replace

from attnbench.contracts.case import Case, Shape
from attnbench.measure.inputs import Inputs, Tokens, draw, draw_tokens
from helpers.subtests import as_subtests

CASE = Case(variant="x", shape=Shape(batch=2, heads=4, kv_heads=2, seq_q=8, seq_k=16, head_dim=4))
SQUARE = Shape(batch=1, heads=2, kv_heads=2, seq_q=1024, seq_k=1024, head_dim=64)
KINDS = ["normal", "clustered", "outliers"]


def first(case: Case, *, tied: bool = False) -> Inputs:
    return draw(case, sets=1, tied=tied)[0]


@as_subtests("inputs", KINDS)
def test_inputs_follow_from_the_seed_and_differ_between_sets(inputs: str) -> None:
    case = replace(CASE, inputs=inputs, passes="backward")
    one, other, third = draw(case, sets=3)
    (again, *_) = draw(case, sets=3)
    for a, b in zip((*one.tensors, one.cotangent), (*again.tensors, again.cotangent), strict=True):
        assert torch.equal(a, b)
    for a, b in [(one, other), (other, third), (one, third)]:
        assert not any(torch.equal(x, y) for x, y in zip(a.tensors, b.tensors, strict=True))
    assert not torch.equal(one.q_BHTD, first(replace(case, seed=1)).q_BHTD)
    assert one.q_BHTD.shape == one.cotangent.shape == (2, 4, 8, 4)
    assert one.k_BGSD.shape == one.v_BGSD.shape == (2, 2, 16, 4)


@as_subtests("inputs", KINDS)
def test_the_first_set_is_the_same_however_many_follow_it(inputs: str) -> None:
    case = replace(CASE, inputs=inputs)
    assert torch.equal(first(case).k_BGSD, draw(case, sets=3)[0].k_BGSD)


@as_subtests("changes", [{}, {"seq_q": 1}, {"heads": 4}, {"seq_k": 1}])
def test_no_two_sets_have_the_same_numbers_at_the_same_places(changes: dict[str, int]) -> None:
    one, other = draw(replace(CASE, shape=replace(SQUARE, **changes)), sets=2)
    for a, b in zip(one.tensors, other.tensors, strict=True):
        assert (a == b).float().mean() < 1e-4  # two of so many may be the same by chance


@as_subtests("inputs", KINDS)
def test_every_dtype_is_given_the_same_numbers_rounded(inputs: str) -> None:
    wide = first(replace(CASE, dtype="float64", inputs=inputs))
    for name in ("float32", "bfloat16", "float16"):
        narrow = first(replace(CASE, dtype=name, inputs=inputs))
        for a, b in zip(narrow.tensors, wide.tensors, strict=True):
            assert torch.equal(a, b.to(a.dtype))


@as_subtests("inputs", KINDS)
def test_a_mechanism_that_ties_queries_and_keys_is_given_the_queries_of_the_others(inputs: str) -> None:
    case = replace(CASE, inputs=inputs, shape=SQUARE)
    tied = first(case, tied=True)
    assert tied.k_BGSD is tied.q_BHTD
    assert torch.equal(tied.q_BHTD, first(case).q_BHTD)
    assert list(tied.leaves) == ["q", "v"]


@as_subtests("inputs", KINDS)
@as_subtests("seed", [0, 1])
def test_inputs_share_no_random_stream_with_weights_drawn_from_the_bare_seed(seed: int, inputs: str) -> None:
    weights = torch.randn(64, generator=torch.Generator().manual_seed(seed))
    one = first(replace(CASE, seed=seed, inputs=inputs, passes="backward"))
    for tensor in (*one.tensors, one.cotangent):
        assert not torch.isin(tensor.flatten(), weights).any()


@as_subtests("inputs", ["normal", "clustered"])
def test_every_feature_has_unit_variance(inputs: str) -> None:
    shape = replace(SQUARE, batch=4, heads=8, kv_heads=8)
    for tensor in first(replace(CASE, inputs=inputs, shape=shape)).tensors:
        assert tensor.var().item() == pytest.approx(1, abs=0.05)
        assert tensor.mean().item() == pytest.approx(0, abs=0.02)


def near(q_TD: torch.Tensor, k_SD: torch.Tensor) -> torch.Tensor:
    """Return which keys are in a query's group: their scores are far above all others."""
    return q_TD @ k_SD.T / math.sqrt(q_TD.shape[-1]) > 0.4 * math.sqrt(q_TD.shape[-1])


@as_subtests("heads", [2, 4])
def test_clustered_queries_score_high_with_about_sqrt_s_keys_and_keys_form_sqrt_s_groups(heads: int) -> None:
    shape = replace(SQUARE, heads=heads, head_dim=256)  # so wide that groups cannot be confused
    one = first(replace(CASE, inputs="clustered", shape=shape))
    for h in range(heads):
        k_SD = one.k_BGSD[0, h * 2 // heads]
        assert near(one.q_BHTD[0, h], k_SD).float().sum(1).mean().item() == pytest.approx(32, rel=0.25)
        groups = near(k_SD, k_SD).unique(dim=0)
        assert groups.shape[0] == 32
        assert (groups.sum(0) == 1).all()  # each key is in one group


def test_clustered_keys_of_one_group_share_three_quarters_of_their_variance() -> None:
    k_SD = first(replace(CASE, inputs="clustered", shape=replace(SQUARE, head_dim=256))).k_BGSD[0, 0]
    pairs = near(k_SD, k_SD).fill_diagonal_(False)
    assert (k_SD @ k_SD.T / 256)[pairs].mean().item() == pytest.approx(0.75, rel=0.05)


@as_subtests("head_dim, count", [(8, 1), (64, 2), (128, 4)])
def test_a_few_features_of_queries_and_keys_are_ten_times_larger_and_of_one_sign(head_dim: int, count: int) -> None:
    shape = replace(SQUARE, heads=4, head_dim=head_dim)
    one = first(replace(CASE, inputs="outliers", shape=shape))
    large = [tensor[0].mean(dim=1).abs() > 5 for tensor in (one.q_BHTD, one.k_BGSD)]
    assert torch.equal(large[0], large[1].repeat_interleave(2, dim=0))
    assert (large[1].sum(dim=1) == count).all()
    rows_SD = one.k_BGSD[0, 0]
    outliers_SC, others_SC = rows_SD[:, large[1][0]], rows_SD[:, ~large[1][0]]
    assert (outliers_SC.sign() == outliers_SC[0].sign()).all()
    assert outliers_SC.abs().mean().item() == pytest.approx(10, rel=0.05)
    assert others_SC.abs().max() < 6
    assert one.v_BGSD.abs().max() < 6


def test_tokens_attend_to_one_another_or_to_a_second_sequence_or_the_last_to_all() -> None:
    (own,) = draw_tokens(replace(CASE, shape=SQUARE, passes="backward"), sets=1)
    assert own.y_BSE is None
    assert own.x_BTE.shape == own.cotangent.shape == (1, 1024, 128)
    (cross,) = draw_tokens(CASE, sets=1)
    assert [tensor.shape for tensor in cross.tensors] == [(2, 8, 16), (2, 16, 16)]
    (decode,) = draw_tokens(replace(CASE, shape=replace(SQUARE, seq_q=1), passes="decode"), sets=1)
    assert torch.equal(decode.x_BTE, decode.sources[1][:, -1:])
    assert torch.equal(torch.cat([*decode.history, *decode.newest], dim=1), decode.sources[1])


def test_history_and_the_newest_are_all_keys_and_values() -> None:
    one = first(replace(CASE, shape=replace(SQUARE, seq_q=1), passes="decode"))
    q, k, v = one.newest
    assert q is one.q_BHTD
    assert torch.equal(torch.cat([one.history[0], k], dim=2), one.k_BGSD)
    assert torch.equal(torch.cat([one.history[1], v], dim=2), one.v_BGSD)


@as_subtests("inputs", KINDS)
def test_tokens_have_the_form_that_was_asked_for(inputs: str) -> None:
    shape = replace(SQUARE, heads=16, kv_heads=16)
    (one,) = draw_tokens(replace(CASE, inputs=inputs, shape=shape, level="layer"), sets=1)
    x_TE = one.x_BTE[0]
    large_E = x_TE.mean(dim=0).abs() > 5
    assert large_E.sum().item() == (1024 // 512 if inputs == "outliers" else 0)
    others_TF = x_TE[:, ~large_E]
    share_near = near(others_TF, others_TF).float().mean().item()
    assert share_near == pytest.approx(1 / 32 if inputs == "clustered" else 1 / 1024, rel=0.25)


def test_further_sets_draw_no_further_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    randn = torch.randn

    def counted(count: int, generator: torch.Generator) -> torch.Tensor:
        drawn.append(count)
        return randn(count, generator=generator)

    monkeypatch.setattr(torch, "randn", counted)
    draw(replace(CASE, passes="backward"), sets=3)
    assert drawn == [2 * (2 * 4 * 8 * 4 + 2 * 2 * 16 * 4)]


def test_widened_inputs_are_the_same_numbers_and_tied_ones_stay_one_tensor() -> None:
    wide = first(replace(CASE, dtype="float16", shape=SQUARE), tied=True).widened()
    assert wide.tied
    assert wide.v_BGSD.dtype == torch.float64
    (tokens,) = draw_tokens(CASE, sets=1)
    assert isinstance(tokens.widened(), Tokens)
    assert all(torch.equal(a.double(), b) for a, b in zip(tokens.tensors, tokens.widened().tensors, strict=True))
