import msgspec
import pytest
import torch
from torch.nn.functional import conv2d, pad

from attnbench import Unsupported
from attnbench.measure.counting import counted
from attnbench_variants.low_rank.nystrom import _convolved, _pseudo_inverse, _segment_means
from helpers.subtests import as_subtests
from laws.memory import peak_bytes
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw, variant
from references import REFERENCES


def _nystrom(length, *, queries=None, kv_heads=2, dtype="float64", passes="", **options):
    sizes = {"seq_q": queries or length, "seq_k": length, "kv_heads": kv_heads}
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, **sizes)
    return case_for("nystrom", WORKLOADS["full"], options, shape=shape, dtype=dtype, passes=passes)


def _exact(case):
    return built("vanilla", msgspec.structs.replace(case, options={}))


@as_subtests("queries", [7, 21, 64])
def test_where_every_token_is_a_landmark_attention_is_exact(queries):
    case = _nystrom(64, queries=queries, conv=0, landmarks=64)
    qkv = draw("nystrom", case)
    assert_near(built("nystrom", case)(*qkv), _exact(case)(*qkv), 1e-12)


def test_where_the_tokens_of_a_segment_are_alike_attention_is_exact():
    case = _nystrom(24, conv=0, landmarks=6, iterations=40)
    q, k, v = draw("nystrom", case)
    q, k = (x[:, :, ::4].repeat_interleave(4, dim=2) for x in (q, k))
    assert_near(built("nystrom", case)(q, k, v), _exact(case)(q, k, v), 1e-9)


def test_with_one_landmark_every_query_has_the_same_output():
    case = _nystrom(20, conv=0, landmarks=1)
    out = built("nystrom", case)(*draw("nystrom", case))
    assert_near(out, out[:, :, :1].expand_as(out), 1e-12)


@as_subtests("rows, columns", [(8, 8), (3, 8), (8, 3)])
def test_the_iteration_reaches_the_pseudo_inverse_and_six_steps_come_closer_than_three(rows, columns):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(4, 2, rows, columns, dtype=torch.float64, generator=generator).softmax(dim=-1)
    true = torch.linalg.pinv(a)
    assert_near(_pseudo_inverse(a, 40), true, 1e-9)
    errors = [(_pseudo_inverse(a, steps) - true).norm().item() for steps in (1, 3, 6, 9)]
    assert errors == sorted(errors, reverse=True)


@as_subtests("length, count", [(21, 5), (20, 5), (3, 5), (129, 64), (64, 64)])
def test_segments_tile_the_sequence_in_order_and_differ_by_one_token_at_most(length, count):
    weights = _segment_means(torch.eye(length, dtype=torch.float64)[None, None], count)[0, 0]
    sizes = (weights > 0).sum(dim=1)
    assert weights.shape == (min(length, count), length)
    assert sizes.max() - sizes.min() <= 1
    assert torch.equal((weights > 0).int().argmax(dim=0), torch.arange(len(sizes)).repeat_interleave(sizes))
    assert_near(weights.sum(dim=1), torch.ones(len(sizes)), 1e-12)


def test_a_kernel_of_one_in_its_middle_adds_the_values_themselves():
    with_conv, without = _nystrom(21, landmarks=5, conv=5), _nystrom(21, landmarks=5, conv=0)
    q, k, v = draw("nystrom", without)
    attention = built("nystrom", with_conv)
    attention.kernel.data.zero_()[:, 2] = 1
    assert_near(attention(q, k, v), built("nystrom", without)(q, k, v) + v, 1e-12)


@as_subtests("width", [1, 2, 5, 33, 34, 50])
@as_subtests("length", [1, 3, 32, 33, 100])
def test_the_convolution_is_torchs(length, width):
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(2, 3, length, 4, dtype=torch.float64, generator=generator)
    kernel = torch.randn(3, width, dtype=torch.float64, generator=generator)
    torchs = conv2d(pad(v, (0, 0, width // 2, (width - 1) // 2)), kernel[:, None, :, None], groups=3)
    assert_near(_convolved(v, kernel), torchs, 1e-12)


def test_the_seed_draws_the_kernel_and_every_dtype_has_the_same():
    case = _nystrom(21)
    first, again = built("nystrom", case).kernel, built("nystrom", case).kernel
    narrow = built("nystrom", _nystrom(21, dtype="bfloat16")).kernel
    assert torch.equal(first, again)
    assert torch.equal(first.bfloat16(), narrow)
    assert not torch.equal(first, built("nystrom", msgspec.structs.replace(case, seed=4)).kernel)
    assert first.shape == (2, 33)
    assert first.abs().max() <= 33**-0.5


def test_more_queries_than_keys_are_served_without_the_convolution_and_refused_with_it():
    case = _nystrom(9, queries=21, landmarks=5, conv=0)
    qkv = draw("nystrom", case)
    assert_near(built("nystrom", case)(*qkv), REFERENCES["nystrom"].attend(None, *qkv, case), 1e-9)
    with pytest.raises(Unsupported, match="conv=0"):
        built("nystrom", _nystrom(9, queries=21, landmarks=5, conv=3))


def test_causal_windowed_and_decode_cases_are_refused():
    for workload in ("causal", "full-window", "full-decode"):
        with pytest.raises(Unsupported, match="sequence"):
            built("nystrom", case_for("nystrom", WORKLOADS[workload]))


def test_memory_grows_with_the_length_and_not_with_its_square():
    def peak(length):
        case = _nystrom(length, dtype="float32", landmarks=16)
        attention, qkv = built("nystrom", case), draw("nystrom", case)
        return peak_bytes(lambda: attention(*qkv))

    assert peak(4096) < 2.2 * peak(2048)


@as_subtests("length, queries", [(200, 200), (200, 90), (20, 20), (200, 10)])
@as_subtests("kv_heads", [2, 1])
def test_the_operations_are_those_that_torch_counts(length, queries, kv_heads):
    case = _nystrom(length, queries=queries, kv_heads=kv_heads, landmarks=24, passes="forward")
    attention, qkv = built("nystrom", case), (x.detach() for x in draw("nystrom", case))
    with torch.no_grad():
        assert counted(lambda: attention(*qkv)).flops == variant("nystrom").flops(case)


def test_operations_grow_with_the_length():
    flops = [variant("nystrom").flops(_nystrom(length)) for length in (1024, 2048, 4096)]
    assert flops[2] - flops[1] == 2 * (flops[1] - flops[0])
