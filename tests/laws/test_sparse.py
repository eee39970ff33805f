import msgspec
import torch

from attnbench import Mask
from attnbench_variants.fixed_sparse import block_local
from helpers.subtests import as_subtests
from laws.memory import peak_bytes
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw, variant


def _sparse(length, *, queries=None, causal=False, dtype="float64", **options):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=queries or length, seq_k=length)
    return case_for("sparse", WORKLOADS["full"], options, shape=shape, mask=Mask(causal=causal), dtype=dtype)


@as_subtests("causal", [True, False])
def test_neighbours_that_reach_every_block_are_exact_attention(causal):
    case = _sparse(50, causal=causal, block=4, globals=1, neighbours=11)
    qkv = draw("sparse", case)
    assert_near(built("sparse", case)(*qkv), built("vanilla", msgspec.structs.replace(case, options={}))(*qkv), 1e-12)


@as_subtests("causal", [True, False])
@as_subtests("queries", [50, 23])
def test_blocks_in_several_runs_equal_blocks_in_one(monkeypatch, causal, queries):
    case = _sparse(50, queries=queries, causal=causal, block=4)
    qkv = draw("sparse", case)
    at_once = built("sparse", case)(*qkv)
    monkeypatch.setattr(block_local, "_CACHED_ELEMENTS", 1)
    assert_near(built("sparse", case)(*qkv), at_once, 1e-13)


@as_subtests("causal", [True, False])
@as_subtests("queries", [1, 2, 5, 12, 13, 16, 17, 18, 20])
def test_fewer_queries_than_keys_are_the_last_rows_wherever_the_first_one_lies(causal, queries):
    all_rows = _sparse(21, causal=causal, block=4)
    q, k, v = draw("sparse", all_rows)
    expected = built("sparse", all_rows)(q, k, v)[:, :, -queries:]
    fewer = _sparse(21, queries=queries, causal=causal, block=4)
    assert_near(built("sparse", fewer)(q[:, :, -queries:], k, v), expected, 1e-12)


def test_the_first_block_sees_and_is_seen_by_all():
    case = _sparse(40, block=4)
    q, k, v = (x.detach() for x in draw("sparse", case))
    out = built("sparse", case)(q, k, v)
    for changed in (0, 39):
        other = v.clone()
        other[:, :, changed] += 1
        moved = (built("sparse", case)(q, k, other) - out).abs().amax(dim=(0, 1, 3)) > 1e-9
        assert moved.all() if changed == 0 else moved.nonzero().flatten().tolist() == [0, 1, 2, 3, *range(32, 40)]


@as_subtests("causal", [True, False])
def test_memory_grows_with_the_length_and_not_with_its_square(causal):
    def peak(length):
        case = _sparse(length, causal=causal, dtype="float32", block=16)
        attention, qkv = built("sparse", case), draw("sparse", case)
        return peak_bytes(lambda: attention(*qkv))

    assert peak(4096) < 2.2 * peak(2048)


def test_operations_grow_with_the_length_and_not_with_its_square():
    flops = [variant("sparse").flops(_sparse(length, block=16)) for length in (1024, 2048, 4096)]
    assert flops[2] - flops[1] == 2 * (flops[1] - flops[0])


def test_decoding_costs_the_same_at_any_length():
    flops = {variant("sparse").flops(_sparse(length, queries=1, causal=True, block=16)) for length in (1024, 4096)}
    assert len(flops) == 1


def test_padding_never_makes_an_output_or_gradient_nan():
    case = _sparse(41, queries=6, causal=True, block=8, globals=0, neighbours=0)
    qkv = draw("sparse", case)
    out = built("sparse", case)(*qkv)
    assert all(torch.isfinite(x).all() for x in (out, *torch.autograd.grad(out.sum(), qkv)))
