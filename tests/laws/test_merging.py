"""Parts of one softmax: merged they give what one call over all of their keys gives, forward and backward."""

# X sequences, C chunks, M queries of a chunk, N = C * M queries, S keys, D head dimension
from itertools import pairwise

import pytest
import torch

from attnbench_variants.blocks.lse_kernels import FUSED_CPU, PLAIN, Chunks
from attnbench_variants.blocks.merging import Part, attend_in_parts
from laws.memory import peak_bytes
from laws.workloads import assert_near

KERNELS = pytest.mark.parametrize("kernel", [FUSED_CPU, PLAIN], ids=["fused", "plain"])


def _drawn(*sizes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=generator, dtype=torch.float64).requires_grad_() for size in sizes]


def _softmax(q, k, v, hidden=None):
    scores = q @ k.mT * 0.5
    return (scores if hidden is None else scores.masked_fill(hidden, -torch.inf)).softmax(-1) @ v


def _same(out, true, inputs):
    assert_near(out, true, 1e-12)
    cotangent = torch.randn_like(out)
    for ours, wanted in zip(*(torch.autograd.grad(x, inputs, cotangent) for x in (out, true)), strict=True):
        assert_near(ours, wanted, 1e-12)


@KERNELS
@pytest.mark.parametrize("cuts", [(0, 13), (0, 1, 13), (0, 5, 6, 12, 13)])
def test_parts_of_the_keys_are_merged_into_one_softmax(kernel, cuts):
    q, k, v = inputs = _drawn((2, 4, 7, 3), (2, 2, 13, 3), (2, 2, 13, 3))
    keys = [slice(*pair) for pair in pairwise(cuts)]
    parts = [Part(Chunks(q, k[:, :, each], v[:, :, each], scale=0.5)) for each in keys]
    out = attend_in_parts(parts, queries=7, kernel=kernel).view_as(q)
    _same(out, _softmax(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)), inputs)


@KERNELS
def test_a_causal_square_and_the_keys_before_it_are_causal_attention_of_the_last_queries(kernel):
    q, k, v = inputs = _drawn((2, 2, 5, 3), (2, 2, 13, 3), (2, 2, 13, 3))
    before = Part(Chunks(q, k[:, :, :8], v[:, :, :8], scale=0.5))
    square = Part(Chunks(q, k[:, :, 8:], v[:, :, 8:], causal=True, scale=0.5))
    out = attend_in_parts([before, square], queries=5, kernel=kernel).view_as(q)
    _same(out, _softmax(q, k, v, torch.ones(5, 13, dtype=torch.bool).triu(9)), inputs)


@KERNELS
def test_chunks_of_the_queries_with_a_mask_and_keys_that_all_see_are_merged(kernel):
    q, k, v, k_all, v_all = inputs = _drawn((2, 12, 3), (2, 12, 3), (2, 12, 3), (2, 2, 3), (2, 2, 3))
    masked = torch.ones(4, 4, dtype=torch.float64).triu(1) * torch.finfo(torch.float64).min / 2
    chunked = Part(Chunks(*(x.unflatten(1, (3, 4)) for x in (q, k, v)), mask=masked[None, None], scale=0.5))
    shared = Part(Chunks(*(x[:, None] for x in (q, k_all, v_all)), scale=0.5))
    out = attend_in_parts([chunked, shared], queries=12, kernel=kernel)
    hidden = torch.block_diag(*[torch.ones(4, 4).tril()] * 3) == 0
    true = _softmax(q, torch.cat([k, k_all], 1), torch.cat([v, v_all], 1), torch.nn.functional.pad(hidden, (0, 2)))
    _same(out, true, inputs)


@KERNELS
def test_a_part_serves_the_rows_that_it_names_and_rows_of_no_part_are_zero(kernel):
    q, k, v = inputs = _drawn((1, 2, 6, 3), (1, 2, 4, 3), (1, 2, 4, 3))
    rows = slice(2, 5)
    out = attend_in_parts([Part(Chunks(q[:, :, rows], k, v, scale=0.5), rows)], queries=6, kernel=kernel).view_as(q)
    _same(out, torch.nn.functional.pad(_softmax(q[:, :, rows], k, v), (0, 0, 2, 1)), inputs)


@KERNELS
@pytest.mark.parametrize("size", [0.0, 1e4])
def test_scores_of_any_size_are_merged_without_overflow(kernel, size):
    q, k, v = inputs = _drawn((1, 1, 3, 2), (1, 1, 6, 2), (1, 1, 6, 2))
    keys = [slice(0, 3), slice(3, 6)]
    parts = [Part(Chunks(q, k[:, :, each], v[:, :, each], scale=size)) for each in keys]
    out = attend_in_parts(parts, queries=3, kernel=kernel).view_as(q)
    _same(out, (q @ k.mT * size).softmax(-1) @ v, inputs)


def test_merging_keeps_no_scores_for_the_gradient():
    q, k, v = (x.float().detach().requires_grad_() for x in _drawn(*[(1, 1, 1024, 8)] * 3))

    def both_ways():
        parts = [Part(Chunks(q, k[:, :, each], v[:, :, each])) for each in (slice(0, 512), slice(512, None))]
        attend_in_parts(parts, queries=1024, kernel=FUSED_CPU).sum().backward()

    both_ways()
    assert peak_bytes(both_ways) < 1024 * 1024 * 4 / 2
