import msgspec
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from attnbench import Mask, Unsupported
from attnbench_variants.blocks.lse_kernels import PLAIN
from attnbench_variants.position import relative_vectors as near_and_far
from helpers.subtests import as_subtests
from laws.memory import peak_bytes
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw, variant

MASKS = [Mask(), Mask(causal=True), Mask(window=9), Mask(causal=True, window=150)]


def _shaw(length, options=None, *, mask=None, queries=None, passes="", **changes):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=queries or length, seq_k=length)
    given = {"shape": shape, "mask": mask or Mask(), "passes": passes}
    return case_for("shaw", WORKLOADS["full"], options or {}, **given, **changes)


def _all_pairs(attention, qkv, case):
    """Equations 3 to 5 with the vectors of all pairs."""
    (q, k, v), shape, clip = qkv, case.shape, case.options["clip"]
    distance = torch.arange(shape.seq_k) - torch.arange(shape.seq_k - shape.seq_q, shape.seq_k)[:, None]
    relation = distance.clamp(-clip, clip) + clip
    hidden = (distance > 0) & case.mask.causal | (distance.abs() >= (case.mask.window or shape.seq_k))
    keys, values = k[:, :, None] + attention.keys_HRD[:, relation], v[:, :, None] + attention.values_HRD[:, relation]
    weights = (torch.einsum("bhtd,bhtsd->bhts", q, keys) / 2).masked_fill(hidden, -torch.inf).softmax(-1)
    return torch.einsum("bhts,bhtsd->bhtd", weights, values)


@as_subtests("kernel", [None, PLAIN])
@as_subtests("mask", MASKS)
@as_subtests("queries", [300, 140, 1])
def test_near_and_far_keys_computed_apart_equal_vectors_for_all_pairs(monkeypatch, mask, queries, kernel):
    if kernel:
        monkeypatch.setattr(near_and_far, "kernel_for", lambda _device: kernel)
    case = _shaw(300, {"clip": 5}, mask=mask, queries=queries)
    attention, qkv = built("shaw", case), draw("shaw", case)
    out, true = attention(*qkv), _all_pairs(attention, qkv, case)
    assert_near(out, true, 1e-12)
    inputs, cotangent = (*qkv, *attention.parameters()), torch.randn_like(out)
    for found, right in zip(*(torch.autograd.grad(x, inputs, cotangent) for x in (out, true)), strict=True):
        assert_near(found, right, 1e-11)


@as_subtests("mask", MASKS)
def test_vectors_of_zero_are_exact_attention(mask):
    case = _shaw(300, mask=mask)
    attention, qkv = built("shaw", case), draw("shaw", case)
    for vectors in attention.parameters():
        torch.nn.init.zeros_(vectors)
    assert_near(attention(*qkv), built("vanilla", msgspec.structs.replace(case, options={}))(*qkv), 1e-12)


@as_subtests("shared", [True, False])
def test_vectors_are_drawn_by_the_seed_for_each_head_or_for_all(shared):
    drawn = [built("shaw", _shaw(8, {"shared": shared}, seed=seed)) for seed in (1, 1, 2)]
    assert drawn[0].keys_HRD.shape == (1 if shared else 2, 33, 4)
    assert torch.equal(drawn[0].keys_HRD, drawn[1].keys_HRD)
    assert not torch.equal(drawn[0].keys_HRD, drawn[2].keys_HRD)
    assert not torch.equal(drawn[0].keys_HRD, drawn[0].values_HRD)


@as_subtests("mask", [Mask(), Mask(causal=True)])
@as_subtests("passes", ["forward", "forward-backward"])
def test_memory_grows_with_the_length_and_not_with_its_square(mask, passes):
    def peak(length):
        case = _shaw(length, mask=mask, dtype="float32")
        attention, qkv = built("shaw", case), draw("shaw", case)

        def call():
            with torch.set_grad_enabled(passes == "forward-backward"):
                out = attention(*qkv)
            return out if passes == "forward" else torch.autograd.grad(out.sum(), (*qkv, *attention.parameters()))

        return peak_bytes(call)

    assert peak(2048) < 2.2 * peak(1024)


@as_subtests("passes", ["forward", "backward", "forward-backward"])
def test_operations_are_counted_as_torch_counts_them(monkeypatch, passes):
    monkeypatch.setattr(near_and_far, "kernel_for", lambda _device: PLAIN)
    case = _shaw(300, {"clip": 5}, passes=passes)
    attention, qkv = built("shaw", case), draw("shaw", case)
    with FlopCounterMode(display=False) as counter:
        out = attention.forward(*qkv)  # not as a module, for which the counter adds hooks that autograd.grad refuses
        forward = counter.get_total_flops()
        if passes != "forward":
            torch.autograd.grad(out.sum(), (*qkv, *attention.parameters()))
        total = counter.get_total_flops()
    assert variant("shaw").flops(case) == (total - forward if passes == "backward" else total)


def test_a_window_costs_only_the_pairs_it_shows():
    flops = [variant("shaw").flops(_shaw(length, mask=Mask(causal=True, window=64))) for length in (2048, 4096)]
    assert flops[1] < 2.1 * flops[0]
    assert flops[1] < variant("shaw").flops(_shaw(4096, mask=Mask(causal=True))) / 5


def test_more_queries_than_keys_are_refused():
    with pytest.raises(Unsupported, match="last positions"):
        built("shaw", _shaw(5, queries=21))
