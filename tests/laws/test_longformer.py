import msgspec
import torch
from torch.utils.flop_counter import FlopCounterMode

from attnbench import Mask
from attnbench_variants.blocks.lse_kernels import PLAIN
from attnbench_variants.fixed_sparse import windows
from helpers.subtests import as_subtests
from laws.memory import peak_bytes
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw, variant

MASKS = [Mask(), Mask(causal=True)]


def _longformer(length, *, queries=None, mask=MASKS[0], dtype="float64", passes="", **options):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=queries or length, seq_k=length)
    changes = {"shape": shape, "mask": mask, "dtype": dtype, "passes": passes}
    return case_for("longformer", WORKLOADS["full"], options, **changes)


def _dense(q, k, v, case):
    """Attend with a mask for all pairs."""
    keys, options = k.shape[2], case.options
    i, j = torch.arange(keys - q.shape[2], keys)[:, None], torch.arange(keys)
    seen = ((i - j).abs() <= options["width"] // 2) | (i < options["globals"]) | (j < options["globals"])
    seen &= (j <= i) | (not case.mask.causal)
    return (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~seen, -torch.inf).softmax(-1) @ v


def _gradients(out, qkv):
    cotangent = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(5))
    return torch.autograd.grad(out, qkv, cotangent)


@as_subtests("mask", MASKS)
@as_subtests("hubs", [0, 1, 40])
@as_subtests("queries, keys", [(300, 300), (1, 300), (280, 300)])
def test_a_long_sequence_is_attended_to_as_by_a_mask_for_all_pairs(mask, hubs, queries, keys):
    case = _longformer(keys, queries=queries, mask=mask, width=50, globals=hubs)
    qkv = draw("longformer", case)
    out, true = built("longformer", case)(*qkv), _dense(*qkv, case)
    assert_near(out, true, 1e-12)
    for given, wanted in zip(_gradients(out, qkv), _gradients(true, qkv), strict=True):
        assert_near(given, wanted, 1e-12)


def test_without_global_positions_it_is_a_window():
    case = _longformer(300, width=50, globals=0)
    qkv = draw("longformer", case)
    window = case_for("window", case, {"width": 26})
    assert torch.equal(built("longformer", case)(*qkv), built("window", window)(*qkv))


@as_subtests("mask", MASKS)
@as_subtests("options", [{"globals": 100}, {"width": 200}])
def test_a_pattern_that_holds_all_pairs_is_exact_attention(mask, options):
    case = _longformer(100, mask=mask, **options)
    qkv = draw("longformer", case)
    exact = built("vanilla", msgspec.structs.replace(case, options={}))
    assert_near(built("longformer", case)(*qkv), exact(*qkv), 1e-12)


@as_subtests("mask", MASKS)
@as_subtests("passes", ["forward", "forward-backward"])
def test_memory_grows_with_the_length_and_not_with_its_square(mask, passes):
    def peak(length):
        case = _longformer(length, mask=mask, dtype="float32", width=32, globals=4)
        attention, qkv = built("longformer", case), draw("longformer", case)
        return peak_bytes(lambda: _gradients(attention(*qkv), qkv) if passes != "forward" else attention(*qkv))

    assert peak(8192) < 2.2 * peak(4096)


@as_subtests("mask", MASKS)
def test_operations_grow_with_the_length_and_not_with_its_square(mask):
    flops = [variant("longformer").flops(_longformer(length, mask=mask)) for length in (2048, 4096, 8192)]
    assert flops[2] - flops[1] == 2 * (flops[1] - flops[0])


@as_subtests("mask", MASKS)
@as_subtests("queries", [299, 200])
def test_operations_of_local_rows_are_those_that_torch_counts(monkeypatch, mask, queries):
    monkeypatch.setattr(windows, "kernel_for", lambda device: PLAIN)  # torch does not count those of its CPU kernel
    case = _longformer(300, queries=queries, mask=mask, passes="forward-backward", width=20)
    qkv = draw("longformer", case)
    with FlopCounterMode(display=False) as counter:
        built("longformer", case)(*qkv).sum().backward()
    assert counter.get_total_flops() == variant("longformer").flops(case)


@as_subtests("dilation", [1, 3])
@as_subtests("kv_heads", [2, 1])
@as_subtests("before", [0, 1, 2, 7, 30])
def test_steps_after_a_prefill_equal_the_causal_whole(before, kv_heads, dilation):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=40, seq_k=40, kv_heads=kv_heads)
    options = {"width": 6, "globals": 2, "dilation": dilation}
    case = case_for("longformer", WORKLOADS["full"], options, shape=shape, mask=Mask(causal=True))
    attention, (q, k, v) = built("longformer", case), (x.detach() for x in draw("longformer", case))
    state, steps = attention.prefill(k[:, :, :before], v[:, :, :before]), []
    for t in range(before, 40):
        one = q[:, :, t : t + 1], k[:, :, t : t + 1], v[:, :, t : t + 1]
        (first, _), (out, state) = (attention.step(*one, state) for _ in range(2))
        assert torch.equal(first, out)  # the state before stays good for the same step
        steps.append(out)
    assert_near(torch.cat(steps, dim=2), attention(q, k, v)[:, :, before:], 1e-12)
