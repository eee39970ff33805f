"""The effective matrix, read from mechanisms whose weights are known."""

from pathlib import Path

import pytest
import torch

from attnbench import Attention, Case, Shape
from attnbench.contracts.case import Mask
from attnbench.measure import effective
from attnbench.measure.effective import (
    at_core,
    calls_for,
    check_time,
    column_blocks,
    effective_matrix,
    repeatable,
    within_time,
)
from attnbench.measure.failure import LeftOut
from attnbench.measure.inputs import draw_tokens
from attnbench.plugins.registry import load
from helpers.subtests import as_subtests

LEAKING = Path(__file__).parents[2] / "plugins" / "leaking.py"
Qkv = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def planted(name: str) -> Attention:
    shape = Shape(batch=1, heads=1, kv_heads=1, seq_q=8, seq_k=8, head_dim=4)
    built: Attention = load(f"{LEAKING}:{name}")(Case(variant=name, shape=shape, mask=Mask(causal=True)))
    return built


def drawn(queries: int, keys: int, *, width: int = 4, dtype: torch.dtype = torch.float64) -> Qkv:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, width, generator=generator).to(dtype) for n in (queries, keys, keys))
    return q, k, v


@as_subtests("queries, keys", [(1, 1), (5, 11), (8, 8), (9, 4)])
def test_the_matrix_of_given_weights_is_these_weights_whatever_the_lengths(queries: int, keys: int) -> None:
    weights = torch.randn(2, 3, queries, keys, dtype=torch.float64)
    found = effective_matrix(lambda _q, _k, v: weights @ v, drawn(queries, keys))
    torch.testing.assert_close(found, weights, rtol=1e-12, atol=1e-12)


def test_chosen_rows_are_those_of_the_whole_matrix() -> None:
    tensors, rows = drawn(8, 8), torch.tensor([1, 6])
    whole = effective_matrix(planted("Causal"), tensors)
    assert torch.equal(effective_matrix(planted("Causal"), tensors, rows_R=rows), whole[:, :, rows])


def test_blocks_are_as_wide_as_a_head_and_cost_a_call_each_and_one_more() -> None:
    calls = []

    def counted(_q: torch.Tensor, _k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        calls.append(v)
        return v * 2

    widths = [block.shape[-1] for block in column_blocks(counted, drawn(10, 10))]
    assert widths == [4, 4, 2]
    assert len(calls) == calls_for(10, 4) == 4


def test_tied_queries_and_keys_stay_one_tensor() -> None:
    q, _, v = drawn(6, 6)
    seen = []

    def tied(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        seen.append(keys is queries)
        return values * 1

    effective_matrix(tied, (q, q, v))
    assert all(seen)


def test_grouped_heads_share_the_columns_of_their_values() -> None:
    (q, _, _), (_, k, v) = drawn(5, 5), drawn(5, 5)
    k, v = k[:, :1], v[:, :1]
    weights = torch.softmax(q @ k.mT, -1)
    found = effective_matrix(lambda _q, _k, v: weights @ v, (q, k, v))
    torch.testing.assert_close(found, weights, rtol=1e-12, atol=1e-12)


def test_what_is_not_linear_in_its_values_is_refused_in_words() -> None:
    with pytest.raises(LeftOut, match="not linear in V"):
        effective_matrix(planted("NotLinear"), drawn(8, 8))


def test_a_constant_that_is_added_is_refused_too() -> None:
    with pytest.raises(LeftOut, match="not linear in V"):
        effective_matrix(lambda _q, _k, v: v + 1, drawn(8, 8))


def test_chance_is_set_back_before_each_call_and_left_as_it_was() -> None:
    before = torch.get_rng_state()
    matrix = effective_matrix(planted("Dropping"), drawn(8, 8), seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(matrix, effective_matrix(planted("Dropping"), drawn(8, 8), seed=1))
    dropped = matrix[..., -1, :] == 0
    assert dropped.any()
    assert not dropped.all()


def test_chance_that_cannot_be_set_back_is_refused() -> None:
    with pytest.raises(LeftOut, match="draws anew"):
        effective_matrix(planted("DrawsOfItsOwn"), drawn(32, 32))


def test_another_seed_finds_another_chance() -> None:
    q, k, v = drawn(32, 32)
    one, same, other = (repeatable(planted("Dropping"), seed=seed)(q, k, v) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@as_subtests("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_is_no_lack_of_linearity(dtype: torch.dtype) -> None:
    tensors = drawn(300, 300, width=16, dtype=dtype)
    assert effective_matrix(planted("Causal"), tensors).dtype == dtype


def test_an_output_that_is_not_finite_has_no_matrix() -> None:
    with pytest.raises(LeftOut, match="not linear in V"):
        effective_matrix(lambda _q, _k, v: v / v.norm(dim=-1, keepdim=True), drawn(8, 8))


def test_slow_calls_and_layers_are_not_asked() -> None:
    check_time(calls=9, call_s=0.1)
    with pytest.raises(LeftOut, match="9 calls, and one takes 1 s"):
        check_time(calls=9, call_s=1.0)
    shape = Shape(batch=1, heads=1, kv_heads=1, seq_q=64, seq_k=64, head_dim=8)
    with pytest.raises(LeftOut, match="level core only"):
        at_core(draw_tokens(Case(variant="", shape=shape, level="layer"), sets=1)[0])


def test_calls_that_turn_out_slow_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    attend = within_time(planted("Causal"))
    assert effective_matrix(attend, drawn(8, 8)).shape == (2, 3, 8, 8)
    monkeypatch.setattr(effective, "_LONGEST_S", -1.0)
    with pytest.raises(LeftOut, match="took longer"):
        effective_matrix(attend, drawn(8, 8))
