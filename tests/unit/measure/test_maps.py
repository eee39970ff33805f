import math

import pytest
import torch

from attnbench.contracts.case import Mask
from attnbench.measure.failure import LeftOut
from attnbench.measure.maps import distances, read_matrices

CAUSAL = Mask(causal=True)


def tensors(queries=6, keys=6, *, heads=4, kv_heads=2):
    generator = torch.Generator().manual_seed(0)
    sizes = ((1, heads, queries, 4), (1, kv_heads, keys, 4), (1, kv_heads, keys, 4))
    return tuple(torch.randn(size, generator=generator) for size in sizes)


def uniform(q, k, v):
    return v.mean(dim=2, keepdim=True).repeat_interleave(q.shape[1] // v.shape[1], dim=1).expand_as(q)


def read(attention, given, *, mask=CAUSAL, heads=(0, 3)):
    said = []
    found = read_matrices(attention, given, mask=mask, heads=heads, seed=0, report=said.append)
    assert said[-1] == f"{len(said)} of {len(said)} blocks of keys"
    return found


def test_a_matrix_is_that_of_the_chosen_heads_and_exact_attention_stands_beside_it():
    q, k, _ = given = tensors()
    matrices, exact = read(uniform, given)
    assert matrices.shape == exact.shape == (2, 6, 6)
    assert torch.allclose(matrices, torch.full((2, 6, 6), 1 / 6))
    scores = torch.stack([q[0, 0] @ k[0, 0].T, q[0, 3] @ k[0, 1].T]).double() / 2
    hidden = torch.ones(6, 6).triu(1).bool()
    assert torch.allclose(exact, scores.masked_fill(hidden, -math.inf).softmax(-1))


def test_what_is_not_linear_in_v_has_no_matrix():
    with pytest.raises(LeftOut, match="not linear in V"):
        read(lambda q, k, v: uniform(q, k, v).square(), tensors())


def test_distances_are_those_of_a_pen_and_paper():
    exact = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    found = torch.tensor([[0.5, 0.5], [0.6, 0.3]])
    error, variation, kept = distances(found, exact)
    assert error == pytest.approx(0.5 / math.sqrt(1.5))
    assert variation == pytest.approx((0 + (0.4 + 0.3) / 2) / 2)
    assert kept == pytest.approx((1 + 0.6) / 2)


def test_nothing_lies_between_exact_attention_and_itself():
    _, exact = read(uniform, tensors())
    assert distances(exact[0], exact[0]) == (0, 0, 1)
