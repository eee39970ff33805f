import msgspec
import torch
from torch.nn.functional import layer_norm
from torch.utils.flop_counter import FlopCounterMode

from attnbench import Mask
from attnbench_variants.blocks.lse_kernels import PLAIN
from attnbench_variants.fixed_sparse import windows
from helpers.subtests import as_subtests
from laws.memory import peak_bytes
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw, variant

MASKS = [Mask(), Mask(causal=True)]


def _long_short(length, *, queries=None, mask=MASKS[0], dtype="float64", passes="", **options):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=queries or length, seq_k=length)
    changes = {"shape": shape, "mask": mask, "dtype": dtype, "passes": passes}
    return case_for("long-short", WORKLOADS["full"], options, **changes)


def _dense(attention, q, k, v, case):
    """Attend to all keys and all landmarks under a mask for all pairs."""
    queries, keys, options = q.shape[2], k.shape[2], case.options
    i, j = torch.arange(keys - queries, keys)[:, None], torch.arange(keys)
    length = options["segment"] if case.mask.causal else keys
    segments = [slice(first, first + length) for first in range(0, keys, length)]
    weights = [(k[:, :, each] @ attention.project).softmax(dim=2).mT for each in segments]
    far = [torch.cat([w @ x[:, :, each] for w, each in zip(weights, segments, strict=True)], dim=2) for x in (k, v)]
    summed = torch.arange(far[0].shape[2]) // options["rank"]
    if case.mask.causal:
        near_seen, far_seen = (j <= i) & (i - j < options["width"]), summed < i // length
    else:
        width, margin = options["width"], options["width"] // 2
        first = i // width * width
        near_seen, far_seen = (j >= first - margin) & (j < first + width + margin), (summed == 0).expand(queries, -1)
    pairs = zip(map(attention.near, (k, v)), map(attention.far, far), strict=True)
    k_all, v_all = (torch.cat(pair, dim=2) for pair in pairs)
    seen = torch.cat([near_seen, far_seen], dim=1)
    return (q @ k_all.mT / q.shape[-1] ** 0.5).masked_fill(~seen, -torch.inf).softmax(-1) @ v_all


def _gradients(out, inputs):
    cotangent = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(5))
    return torch.autograd.grad(out, inputs, cotangent)


@as_subtests("mask", MASKS)
@as_subtests("options", [{}, {"width": 33, "rank": 3, "segment": 20}, {"width": 20, "segment": 150}])
@as_subtests("queries, keys", [(300, 300), (1, 300), (280, 300)])
def test_a_long_sequence_is_attended_to_as_by_a_mask_for_all_pairs(mask, options, queries, keys):
    case = _long_short(keys, queries=queries, mask=mask, **options)
    attention, qkv = built("long-short", case), draw("long-short", case)
    out, true = attention(*qkv), _dense(attention, *qkv, case)
    assert_near(out, true, 1e-12)
    inputs = [*qkv, *attention.parameters()]
    for given, wanted in zip(_gradients(out, inputs), _gradients(true, inputs), strict=True):
        assert_near(given, wanted, 1e-11)


@as_subtests("options", [{"width": 100, "segment": 100}, {"width": 1, "rank": 1, "segment": 1}])
def test_with_all_keys_near_or_each_a_landmark_it_is_exact_attention_to_normalised_keys(options):
    case = _long_short(100, mask=Mask(causal=True), **options)
    q, k, v = draw("long-short", case)
    exact = built("vanilla", msgspec.structs.replace(case, options={}))
    assert_near(built("long-short", case)(q, k, v), exact(q, layer_norm(k, (4,)), layer_norm(v, (4,))), 1e-12)


def test_the_seed_draws_the_projection_and_every_dtype_has_the_same():
    first, again, other, narrow = (
        built("long-short", case_for("long-short", WORKLOADS["full-grouped"], {}, **changes)).project
        for changes in ({}, {}, {"seed": 4}, {"dtype": "bfloat16"})
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first.bfloat16(), narrow)
    assert first.shape == (1, 4, 8)


@as_subtests("mask", MASKS)
@as_subtests("queries", [300, 130])
@as_subtests("passes", ["forward", "forward-backward"])
def test_operations_are_those_that_torch_counts(monkeypatch, mask, queries, passes):
    monkeypatch.setattr(windows, "kernel_for", lambda device: PLAIN)  # torch does not count those of its CPU kernel
    case = _long_short(300, queries=queries, mask=mask, passes=passes, width=20, rank=3, segment=50)
    qkv = draw("long-short", case)
    with FlopCounterMode(display=False) as counter:
        out = built("long-short", case)(*qkv)
        if passes != "forward":
            out.sum().backward()
    assert counter.get_total_flops() == variant("long-short").flops(case)


def test_operations_grow_with_the_length_and_not_with_its_square():
    flops = [variant("long-short").flops(_long_short(length)) for length in (2048, 4096, 8192)]
    assert flops[2] - flops[1] == 2 * (flops[1] - flops[0])


@as_subtests("mask", MASKS)
@as_subtests("passes", ["forward", "forward-backward"])
def test_memory_grows_with_the_length_and_not_with_its_square(mask, passes):
    def peak(length):
        case = _long_short(length, mask=mask, dtype="float32", width=32)
        attention, qkv = built("long-short", case), draw("long-short", case)
        return peak_bytes(lambda: _gradients(attention(*qkv), qkv) if passes != "forward" else attention(*qkv))

    assert peak(8192) < 2.2 * peak(4096)
