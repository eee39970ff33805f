"""Ring attention: the blocks that pass are those of the ring, and change nothing but rounding."""

import msgspec
import torch

from attnbench import Mask
from helpers.subtests import as_subtests
from laws.memory import peak_bytes
from laws.operations import operations
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw

KERNEL = "_scaled_dot_product_flash_attention_for_cpu"


def _ring(length, ranks, **changes):
    case = case_for("ring", WORKLOADS["full"], {"ranks": ranks}, **changes)
    return msgspec.structs.replace(case, shape=msgspec.structs.replace(case.shape, seq_q=length, seq_k=length))


@as_subtests("mask", [Mask(), Mask(causal=True)])
@as_subtests("ranks", [1, 3, 8])
def test_a_ring_of_any_size_equals_flash(ranks, mask):
    case = _ring(200, ranks, mask=mask)
    qkv = draw("ring", case)
    flash = built("flash", msgspec.structs.replace(case, variant="flash", options={}))
    assert_near(built("ring", case)(*qkv), flash(*qkv), 1e-12)


@as_subtests("mask, calls", [(Mask(), 4), (Mask(causal=True), 7)])
def test_each_block_is_passed_on_once_and_causally_only_to_ranks_that_see_it(mask, calls):
    case = _ring(64, 4, mask=mask)
    attention, qkv = built("ring", case), draw("ring", case)
    # Causally: a square on the diagonal for each of four blocks, and what comes after the first three of them.
    assert operations(lambda: attention(*qkv)).count(KERNEL) == calls


@as_subtests("mask", [Mask(), Mask(causal=True)])
def test_a_ring_never_holds_the_scores_of_a_block(mask):
    case = _ring(2048, 2, mask=mask, dtype="float32")
    attention, qkv = built("ring", case), draw("ring", case)

    def both_ways():
        torch.autograd.grad(attention(*qkv).sum(), qkv)

    both_ways()
    assert peak_bytes(both_ways) < 4 * 1024 * 1024 * 4 / 2
