"""Whether hidden tokens matter: on mechanisms that look where they should not."""

import math

import pytest
import torch

from attnbench.contracts.case import Mask
from attnbench.measure.failure import LeftOut
from attnbench.measure.leaks import mask_leak
from attnbench.measure.reference import exact_attention
from helpers.subtests import as_subtests

Qkv = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
CAUSAL = Mask(causal=True)
MASKS = [CAUSAL, Mask(window=3), Mask(causal=True, window=3)]


def drawn(seed: int, queries: int = 12, keys: int = 12) -> Qkv:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(1, 2, n, 4, generator=generator, dtype=torch.float64) for n in (queries, keys, keys))
    return q, k, v


def exact(mask: Mask):
    return lambda q, k, v: exact_attention(q, k, v, mask=mask)


@as_subtests("queries", [12, 5, 1])
@as_subtests("mask", MASKS)
def test_exact_attention_does_not_change_with_what_its_mask_hides(mask: Mask, queries: int) -> None:
    assert mask_leak(exact(mask), drawn(0, queries), drawn(1, queries), mask=mask, seed=0) == 0.0


@as_subtests("mask", MASKS)
def test_attention_without_a_mask_changes_with_what_a_mask_would_hide(mask: Mask) -> None:
    assert mask_leak(exact(Mask()), drawn(0), drawn(1), mask=mask, seed=0) > 0.1


def test_a_window_wider_than_the_one_asked_for_is_a_leak() -> None:
    wide, narrow = Mask(causal=True, window=8), Mask(causal=True, window=3)
    assert mask_leak(exact(wide), drawn(0), drawn(1), mask=narrow, seed=0) > 0.01
    assert mask_leak(exact(narrow), drawn(0), drawn(1), mask=wide, seed=0) == 0.0


def test_tied_queries_and_keys_are_changed_as_one_tensor() -> None:
    (q, _, v), (other_q, _, other_v) = drawn(0), drawn(1)
    seen = []

    def tied(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        seen.append(keys is queries)
        return exact_attention(queries, keys, values, mask=CAUSAL)

    assert mask_leak(tied, (q, q, v), (other_q, other_q, other_v), mask=CAUSAL, seed=0) == 0.0
    assert all(seen)
    assert len(seen) == 5


def test_a_mechanism_is_asked_with_gradients_where_the_pass_wants_them() -> None:
    q, k, v = (each.requires_grad_() for each in drawn(0))
    ways = set()

    def watched(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        ways.add((torch.is_grad_enabled(), q.requires_grad, v.requires_grad))
        return exact_attention(q, k, v, mask=CAUSAL)

    mask_leak(watched, (q, k, v), drawn(1), mask=CAUSAL, seed=0)
    assert ways == {(True, True, True)}


def test_an_output_that_is_spoilt_by_later_tokens_is_a_leak() -> None:
    def spoilt(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return v + (math.nan if torch.equal(v[:, :, -1:], drawn(1)[2][:, :, -1:]) else 0.0)

    assert math.isnan(mask_leak(spoilt, drawn(0), drawn(1), mask=CAUSAL, seed=0))


def test_a_mechanism_that_draws_anew_at_every_call_is_not_accused() -> None:
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(LeftOut, match="equal calls differ"):
        mask_leak(lambda _q, _k, v: v * torch.rand(1, generator=generator), drawn(0), drawn(1), mask=CAUSAL, seed=0)
