import msgspec
import pytest
import torch

from attnbench import Mask, Unsupported
from attnbench_variants.fixed_sparse import block_local
from helpers.subtests import as_subtests
from laws.memory import peak_bytes
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw, variant


def _block_sparse(length, *, queries=None, causal=False, dtype="float64", **options):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=queries or length, seq_k=length)
    return case_for("block-sparse", WORKLOADS["full"], options, shape=shape, mask=Mask(causal=causal), dtype=dtype)


def _kept(length, *, causal, **options):
    """Return the share of the blocks of exact attention that are kept."""
    numbers = built("block-sparse", _block_sparse(length, causal=causal, **options)).lists.numbers
    blocks = numbers.shape[1]
    own = len(numbers) * blocks
    return ((numbers >= 0).sum() + own) / (len(numbers) * (blocks * (blocks + 1) // 2 if causal else blocks**2))


@as_subtests("causal", [True, False])
@as_subtests("length", [48, 50])
def test_all_blocks_kept_are_exact_attention(causal, length):
    case = _block_sparse(length, causal=causal, block=4, pattern="random", density=1.0)
    exact = built("vanilla", msgspec.structs.replace(case, options={}))
    qkv = draw("block-sparse", case)
    assert_near(built("block-sparse", case)(*qkv), exact(*qkv), 1e-12)


@as_subtests("causal", [True, False])
def test_a_butterfly_of_two_blocks_is_exact_attention_and_one_of_four_is_not(causal):
    qkv = draw("block-sparse", _block_sparse(16, causal=causal))
    for block, same in ((8, True), (4, False)):
        case = _block_sparse(16, causal=causal, block=block)
        exact = built("vanilla", msgspec.structs.replace(case, options={}))(*qkv)
        assert torch.allclose(built("block-sparse", case)(*qkv), exact) is same


def test_a_butterfly_keeps_the_blocks_at_distances_of_one_bit():
    numbers = built("block-sparse", _block_sparse(32, block=4)).lists.numbers
    assert numbers.tolist() == [[[i ^ 1, i ^ 2, i ^ 4] for i in range(8)]]


@as_subtests("causal", [True, False])
@as_subtests("density", [0.1, 0.25, 0.7])
def test_density_is_the_share_of_blocks_that_a_random_pattern_keeps(causal, density):
    assert abs(_kept(800, causal=causal, block=4, pattern="random", density=density) - density) < 0.01


@as_subtests("options", [{"density": 0.5}, {"pattern": "random"}])
def test_density_belongs_to_a_random_pattern_and_a_random_pattern_has_one(options):
    with pytest.raises(Unsupported, match="density is given for pattern=random"):
        built("block-sparse", _block_sparse(32, **options))


@as_subtests("options", [{}, {"pattern": "random", "density": 0.3}])
@as_subtests("causal", [True, False])
def test_blocks_in_several_runs_equal_blocks_in_one_and_so_do_their_gradients(monkeypatch, causal, options):
    case = _block_sparse(50, causal=causal, block=4, **options)
    qkv = draw("block-sparse", case)
    at_once = built("block-sparse", case)(*qkv)
    expected = torch.autograd.grad(at_once.square().sum(), qkv)
    monkeypatch.setattr(block_local, "_CACHED_ELEMENTS", 1)
    out = built("block-sparse", case)(*qkv)
    assert_near(out, at_once, 1e-13)
    for gradient, right in zip(torch.autograd.grad(out.square().sum(), qkv), expected, strict=True):
        assert_near(gradient, right, 1e-12)


@as_subtests("options", [{}, {"pattern": "random", "density": 0.25}])
def test_memory_of_training_grows_as_slowly_as_the_length(monkeypatch, options):
    monkeypatch.setattr(block_local, "_CACHED_ELEMENTS", 2**14)  # a run is small beside the sequence, as usual

    def peak(length):
        case = _block_sparse(length, dtype="float32", block=16, **options)
        attention, qkv = built("block-sparse", case), draw("block-sparse", case)
        return peak_bytes(lambda: torch.autograd.grad(attention(*qkv).sum(), qkv))

    assert peak(4096) < 2.2 * peak(2048)


def test_operations_of_a_butterfly_grow_by_one_block_a_row_for_each_doubling():
    flops = {length: variant("block-sparse").flops(_block_sparse(length, block=16)) for length in (1024, 2048)}
    assert flops[2048] / flops[1024] == 2 * (1 + 7) / (1 + 6)


def test_operations_of_a_random_pattern_are_its_share_of_those_of_all_blocks():
    some, every = (
        variant("block-sparse").flops(_block_sparse(1024, block=16, pattern="random", density=density))
        for density in (0.25, 1.0)
    )
    assert every == 4 * some
