import msgspec
import pytest
import torch

from attnbench import Mask, Unsupported
from attnbench_variants.position.alibi import slopes
from helpers.subtests import as_subtests
from laws.memory import peak_bytes
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw, variant

MASKS = [Mask(), Mask(causal=True), Mask(window=100), Mask(causal=True, window=100)]


def _alibi(length, options=None, *, mask=None, queries=None, **changes):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=queries or length, seq_k=length)
    return case_for("alibi", WORKLOADS["full"], options or {}, shape=shape, mask=mask or Mask(), **changes)


@as_subtests("mask", MASKS)
@as_subtests("queries", [600, 270])
def test_zero_slopes_are_exact_attention(mask, queries):
    case = _alibi(600, {"slope_scale": 0}, mask=mask, queries=queries)
    vanilla, qkv = built("vanilla", msgspec.structs.replace(case, options={})), draw("alibi", case)
    out, exact = built("alibi", case)(*qkv), vanilla(*qkv)
    assert_near(out, exact, 1e-12)
    cotangent = torch.randn_like(out)
    for found, true in zip(*(torch.autograd.grad(x, qkv, cotangent) for x in (out, exact)), strict=True):
        assert_near(found, true, 1e-12)


def test_the_slopes_are_the_papers():
    assert slopes(8) == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    assert slopes(1) == [1 / 256]
    assert slopes(12) == pytest.approx([*slopes(8), *(2**-power for power in (0.5, 1.5, 2.5, 3.5))])


@as_subtests("mask", MASKS)
@as_subtests("queries", [600, 270, 1])
def test_blocks_of_a_view_of_the_biases_equal_the_biases_of_all_pairs(mask, queries):
    case = _alibi(600, mask=mask, queries=queries)
    q, k, v = draw("alibi", case)
    distance = torch.arange(600) - torch.arange(600 - queries, 600)[:, None]
    hidden = (distance > 0) & mask.causal | (distance.abs() >= (mask.window or 600))
    penalty = torch.tensor(slopes(2), dtype=torch.float64)[:, None, None] * distance.abs()
    weights = (q @ k.mT / 2 - penalty).masked_fill(hidden, -torch.inf).softmax(-1)
    out, true, cotangent = built("alibi", case)(q, k, v), weights @ v, torch.randn_like(v[:, :, :queries])
    assert_near(out, true, 1e-12)
    gradients, expected = (torch.autograd.grad(x, (q, k, v), cotangent) for x in (out, true))
    for found, right in zip(gradients, expected, strict=True):
        assert_near(found, right, 1e-12)


def test_weights_too_small_for_any_score_to_raise_are_exactly_zero():
    case = _alibi(400, {"slope_scale": 10}, dtype="float32")
    q, k, v = (x.detach() for x in draw("alibi", case))
    far = torch.zeros_like(v)
    far[:, :, 0] = 1e30
    out = built("alibi", case)(q, k, far)
    assert not out[:, 0, -1].any()
    assert out[:, 0, 1].abs().min() > 1e20


def test_a_window_costs_only_the_pairs_it_shows():
    flops = [variant("alibi").flops(_alibi(length, mask=Mask(causal=True, window=64))) for length in (2048, 4096)]
    assert flops[1] < 2.1 * flops[0]
    assert flops[1] < variant("alibi").flops(_alibi(4096, mask=Mask(causal=True))) / 5


@as_subtests("mask", MASKS)
@as_subtests("passes", ["forward", "forward-backward"])
def test_memory_grows_with_the_length_and_not_with_its_square(mask, passes):
    def peak(length):
        case = _alibi(length, mask=mask, dtype="float32")
        attention, qkv = built("alibi", case), draw("alibi", case)

        def call():
            with torch.set_grad_enabled(passes == "forward-backward"):
                out = attention(*qkv)
            return out if passes == "forward" else torch.autograd.grad(out.sum(), qkv)

        return peak_bytes(call)

    assert peak(2048) < 2.2 * peak(1024)


def test_more_queries_than_keys_are_refused():
    with pytest.raises(Unsupported, match="last positions"):
        built("alibi", _alibi(5, queries=21))
