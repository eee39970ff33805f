import msgspec
import torch

from attnbench import Mask
from attnbench_variants.fixed_sparse import block_local
from attnbench_variants.fixed_sparse.block_lists import draw_distinct
from helpers.subtests import as_subtests
from laws.memory import peak_bytes
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw, variant


def _bigbird(length, *, queries=None, causal=False, dtype="float64", seed=3, **options):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=queries or length, seq_k=length)
    mask = Mask(causal=causal)
    return case_for("bigbird", WORKLOADS["full"], options, shape=shape, mask=mask, dtype=dtype, seed=seed)


@as_subtests("causal", [True, False])
def test_as_many_random_blocks_as_there_are_is_exact_attention(causal):
    case = _bigbird(50, causal=causal, block=4, globals=1, neighbours=0, random=12)
    qkv = draw("bigbird", case)
    assert_near(built("bigbird", case)(*qkv), built("vanilla", msgspec.structs.replace(case, options={}))(*qkv), 1e-12)


@as_subtests("causal", [True, False])
def test_without_random_blocks_it_is_sparse(causal):
    case = _bigbird(50, causal=causal, block=4, globals=2, neighbours=1, random=0)
    options = {"block": 4, "globals": 2, "neighbours": 1}
    qkv = draw("bigbird", case)
    assert torch.equal(
        built("bigbird", case)(*qkv), built("sparse", msgspec.structs.replace(case, options=options))(*qkv)
    )


@as_subtests("causal", [True, False])
def test_random_blocks_are_distinct_and_neither_neighbours_nor_after_a_causal_row(causal):
    case = _bigbird(200, causal=causal, block=4, globals=2, neighbours=1, random=3)
    for of_head in built("bigbird", case).lists.numbers.tolist():
        for own, drawn in enumerate(of_head):
            found = [number for number in drawn if number >= 0]
            far = [number for number in range(own if causal else 48) if abs(number - own) > 1]
            assert len(set(found)) == len(found) == min(3, len(far))
            assert set(found) <= set(far)


def test_heads_and_seeds_draw_different_blocks_and_the_same_seed_the_same():
    first, again, other = (built("bigbird", _bigbird(400, block=4, seed=seed)).lists.numbers for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])


def test_every_set_of_numbers_is_drawn_as_often_as_any_other():
    count = 20_000
    drawn = draw_distinct(torch.full((count,), 4), torch.full((count,), 2), heads=1, seed=0)[0].sort(dim=1).values
    sets, times = drawn.unique(dim=0, return_counts=True)
    assert sets.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert (times / count - 1 / 6).abs().max() < 4.5 * (1 / 6 * 5 / 6 / count) ** 0.5


@as_subtests("causal", [True, False])
@as_subtests("queries", [50, 23])
def test_blocks_in_several_runs_equal_blocks_in_one_and_so_do_their_gradients(monkeypatch, causal, queries):
    case = _bigbird(50, queries=queries, causal=causal, block=4)
    qkv = draw("bigbird", case)
    at_once = built("bigbird", case)(*qkv)
    expected = torch.autograd.grad(at_once.square().sum(), qkv)
    monkeypatch.setattr(block_local, "_CACHED_ELEMENTS", 1)
    out = built("bigbird", case)(*qkv)
    assert_near(out, at_once, 1e-13)
    for gradient, right in zip(torch.autograd.grad(out.square().sum(), qkv), expected, strict=True):
        assert_near(gradient, right, 1e-12)


@as_subtests("causal", [True, False])
@as_subtests("queries", [1, 2, 5, 13, 20, 34])
def test_fewer_queries_than_keys_are_the_last_rows_wherever_the_first_one_lies(causal, queries):
    all_rows = _bigbird(41, causal=causal, block=4)
    q, k, v = draw("bigbird", all_rows)
    expected = built("bigbird", all_rows)(q, k, v)[:, :, -queries:]
    fewer = _bigbird(41, queries=queries, causal=causal, block=4)
    assert_near(built("bigbird", fewer)(q[:, :, -queries:], k, v), expected, 1e-12)


@as_subtests("causal", [True, False])
def test_gradients_are_the_same_whether_blocks_are_kept_or_laid_out_again(causal):
    case = _bigbird(50, causal=causal, block=4)
    qkv, outs = draw("bigbird", case), []
    for recomputes in (True, False):
        attention = built("bigbird", case)
        attention.recomputes = recomputes
        out = attention(*qkv)
        outs.append((out, *torch.autograd.grad(out.square().sum(), qkv)))
    for found, right in zip(*outs, strict=True):
        assert_near(found, right, 1e-12)


def test_causally_the_blocks_drawn_for_earlier_rows_do_not_depend_on_the_length():
    short, long = (built("bigbird", _bigbird(length, causal=True, block=4)).lists.numbers for length in (200, 400))
    assert torch.equal(long[:, : short.shape[1]], short)


@as_subtests("backward", [True, False])
@as_subtests("causal", [True, False])
def test_memory_grows_with_the_length_and_not_with_its_square(causal, backward):
    def peak(length):
        case = _bigbird(length, causal=causal, dtype="float32", block=16)
        attention, qkv = built("bigbird", case), draw("bigbird", case)
        if backward:
            return peak_bytes(lambda: torch.autograd.grad(attention(*qkv).sum(), qkv))
        return peak_bytes(lambda: attention(*qkv))

    assert peak(4096) < 2.2 * peak(2048)


def test_operations_grow_with_the_length_and_decoding_costs_the_same_at_any():
    lengths = (1024, 2048, 4096)
    whole = [variant("bigbird").flops(_bigbird(length, block=16)) for length in lengths]
    assert whole[2] - whole[1] == 2 * (whole[1] - whole[0])
    assert len({variant("bigbird").flops(_bigbird(n, queries=1, causal=True, block=16)) for n in lengths}) == 1
