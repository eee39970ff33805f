import msgspec
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from attnbench import Mask, Unsupported
from attnbench_variants.blocks.lse_kernels import PLAIN
from attnbench_variants.fixed_sparse import windows
from helpers.subtests import as_subtests
from laws.memory import peak_bytes
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw, variant

MASKS = [Mask(), Mask(causal=True)]


def _window(length, *, queries=None, mask=MASKS[0], dtype="float64", passes="", **options):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=queries or length, seq_k=length)
    return case_for("window", WORKLOADS["full"], options, shape=shape, mask=mask, dtype=dtype, passes=passes)


def _exact(case):
    mask = msgspec.structs.replace(case.mask, window=case.options["width"])
    return built("vanilla", msgspec.structs.replace(case, options={}, mask=mask))


def _with_gradients(attention, qkv):
    out = attention(*qkv)
    cotangent = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(5))
    return out, *torch.autograd.grad(out, qkv, cotangent)


@as_subtests("mask", MASKS)
@as_subtests("width", [2, 17, 64, 100, 257, 400])
@as_subtests("queries, keys", [(300, 300), (1, 300), (90, 300)])
def test_a_window_is_exact_attention_with_the_workloads_window_of_its_width(mask, width, queries, keys):
    case = _window(keys, queries=queries, mask=mask, width=width)
    qkv = draw("window", case)
    for given, true in zip(
        *(_with_gradients(form, qkv) for form in (built("window", case), _exact(case))), strict=True
    ):
        assert_near(given, true, 1e-12)


@as_subtests("mask", MASKS)
def test_a_window_as_wide_as_the_sequence_is_exact_attention(mask):
    case = _window(150, mask=mask, width=150)
    qkv = draw("window", case)
    assert_near(built("window", case)(*qkv), built("vanilla", msgspec.structs.replace(case, options={}))(*qkv), 1e-12)


@as_subtests("mask", MASKS)
def test_a_dilated_window_is_a_window_over_every_nth_position(mask):
    case = _window(600, mask=mask, width=20, dilation=3)
    q, k, v = draw("window", case)
    apart = built("window", _window(200, mask=mask, width=20))
    out = built("window", case)(q, k, v)
    for residue in range(3):
        assert_near(out[:, :, residue::3], apart(*(x[:, :, residue::3] for x in (q, k, v))), 1e-12)


@pytest.mark.parametrize("mask", MASKS)
def test_blocks_in_several_runs_equal_blocks_in_one(monkeypatch, mask):
    case = _window(300, mask=mask, width=20)
    qkv = draw("window", case)
    at_once = _with_gradients(built("window", case), qkv)
    monkeypatch.setattr(windows, "_CPU_ELEMENTS", 1)
    for given, true in zip(_with_gradients(built("window", case), qkv), at_once, strict=True):
        assert_near(given, true, 1e-13)


@pytest.mark.parametrize("mask", MASKS)
def test_the_form_for_other_devices_gives_the_same(monkeypatch, mask):
    case = _window(300, mask=mask, width=20)
    qkv = draw("window", case)
    fused = _with_gradients(built("window", case), qkv)
    monkeypatch.setattr(windows, "kernel_for", lambda device: PLAIN)
    for given, true in zip(_with_gradients(built("window", case), qkv), fused, strict=True):
        assert_near(given, true, 1e-12)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("passes", ["forward", "forward-backward"])
@pytest.mark.parametrize(("queries", "options"), [(300, {"width": 20}), (70, {"width": 90, "dilation": 2})])
def test_operations_are_those_that_torch_counts(monkeypatch, mask, passes, queries, options):
    monkeypatch.setattr(windows, "kernel_for", lambda device: PLAIN)  # torch does not count those of its CPU kernel
    case = _window(300, queries=queries, mask=mask, passes=passes, **options)
    qkv = draw("window", case)
    with FlopCounterMode(display=False) as counter:
        out = built("window", case)(*qkv)
        if passes != "forward":
            out.sum().backward()
    assert counter.get_total_flops() == variant("window").flops(case)


@as_subtests("mask", MASKS)
def test_operations_grow_with_the_length_and_not_with_its_square(mask):
    flops = [variant("window").flops(_window(length, mask=mask)) for length in (2048, 4096, 8192)]
    assert flops[2] - flops[1] == 2 * (flops[1] - flops[0])


@as_subtests("mask", MASKS)
@as_subtests("passes", ["forward", "forward-backward"])
def test_memory_grows_with_the_length_and_not_with_its_square(mask, passes):
    def peak(length):
        case = _window(length, mask=mask, dtype="float32", width=32)
        attention, qkv = built("window", case), draw("window", case)
        return peak_bytes(lambda: _with_gradients(attention, qkv) if passes != "forward" else attention(*qkv))

    assert peak(8192) < 2.2 * peak(4096)


@as_subtests("dilation", [1, 3])
@as_subtests("kv_heads", [2, 1])
@as_subtests("before", [0, 1, 5, 30])
def test_steps_after_a_prefill_equal_the_causal_whole(before, kv_heads, dilation):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=40, seq_k=40, kv_heads=kv_heads)
    options = {"width": 4, "dilation": dilation}
    case = case_for("window", WORKLOADS["full"], options, shape=shape, mask=Mask(causal=True))
    attention, (q, k, v) = built("window", case), (x.detach() for x in draw("window", case))
    state, steps = attention.prefill(k[:, :, :before], v[:, :, :before]), []
    for t in range(before, 40):
        one = q[:, :, t : t + 1], k[:, :, t : t + 1], v[:, :, t : t + 1]
        (first, _), (out, state) = (attention.step(*one, state) for _ in range(2))
        assert torch.equal(first, out)  # the state before stays good for the same step
        steps.append(out)
    assert_near(torch.cat(steps, dim=2), attention(q, k, v)[:, :, before:], 1e-12)


def test_decoding_reads_the_window_and_keeps_no_more():
    cases = [_window(length, queries=1, mask=Mask(causal=True), passes="decode", width=16) for length in (50, 5000)]
    attentions, inputs = [built("window", case) for case in cases], [draw("window", case) for case in cases]
    states = [attention.prefill(*kv) for attention, (_, *kv) in zip(attentions, inputs, strict=True)]
    assert [x.shape for x in states[0][0]] == [x.shape for x in states[1][0]]
    shape = cases[0].shape
    assert [variant("window").flops(case) for case in cases] == [
        4 * shape.batch * shape.heads * 16 * shape.head_dim
    ] * 2


def test_the_workloads_window_and_more_queries_than_keys_are_refused():
    with pytest.raises(Unsupported, match="option width"):
        built("window", _window(20, mask=Mask(causal=True, window=4), width=4))
    with pytest.raises(Unsupported, match="more of them than keys"):
        built("window", _window(20, queries=21))
