import msgspec
import pytest
import torch

from attnbench import Mask, Unsupported
from attnbench.contracts.variant import complete_options
from attnbench_variants.blocks.lse_kernels import PLAIN
from attnbench_variants.position import distance_bias as bias
from attnbench_variants.position.t5_bias import T5Bias, bucket
from helpers.subtests import as_subtests
from laws.memory import peak_bytes
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw

MASKS = [Mask(), Mask(causal=True), Mask(causal=True, window=9)]


def _t5(length, options=None, *, mask=None, **changes):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=length, seq_k=length, **changes.pop("shape", {}))
    return case_for("t5-bias", WORKLOADS["full"], options or {}, shape=shape, mask=mask or Mask(), **changes)


def _buckets(distances, *, causal):
    return bucket(torch.tensor(distances), T5Bias.Options(), causal=causal).tolist()


def test_the_buckets_are_the_papers():
    # 32 buckets; near distances one each, then up to 128, beyond which all share one (section 2.1).
    assert _buckets(range(0, -16, -1), causal=True) == list(range(16))
    assert _buckets([-16, -18, -19, -100, -127, -128, -5000], causal=True) == [16, 16, 17, 30, 31, 31, 31]
    assert _buckets([0, -1, -7, -8, -127, -128, -900], causal=False) == [0, 1, 7, 8, 15, 15, 15]
    assert _buckets([1, 7, 8, 127, 128, 900], causal=False) == [17, 23, 24, 31, 31, 31]
    assert _buckets([1, 5, 900], causal=True) == [0, 0, 0]


@as_subtests("mask", MASKS)
@as_subtests("scale", [True, False])
def test_biases_of_zero_are_exact_attention(mask, scale):
    case = _t5(50, {"scale": scale}, mask=mask)
    attention, (q, k, v) = built("t5-bias", case), draw("t5-bias", case)
    torch.nn.init.zeros_(attention.bias_HU)
    vanilla = built("vanilla", msgspec.structs.replace(case, options={}))
    assert_near(attention(q if scale else q / 2, k, v), vanilla(q, k, v), 1e-12)


@as_subtests("kv_heads", [4, 2, 1])
@as_subtests("mask", MASKS)
def test_gradients_of_biases_summed_in_blocks_are_those_of_all_pairs(monkeypatch, mask, kv_heads):
    case = _t5(70, mask=mask, shape={"heads": 4, "kv_heads": kv_heads})
    attention, qkv = built("t5-bias", case), draw("t5-bias", case)
    inputs = [*qkv, attention.bias_HU]
    cotangent = torch.randn_like(qkv[0])
    at_once = torch.autograd.grad(attention(*qkv), inputs, cotangent)
    monkeypatch.setattr(bias, "_CPU_SCORES", 1000)
    monkeypatch.setattr(bias, "_BLOCK", 16)
    for found, true in zip(torch.autograd.grad(attention(*qkv), inputs, cotangent), at_once, strict=True):
        assert_near(found, true, 1e-12)


@as_subtests("mask", MASKS)
def test_a_device_without_the_fused_kernel_gets_the_same_in_blocks_of_scores(monkeypatch, mask):
    case = _t5(70, mask=mask, shape={"heads": 4, "kv_heads": 2})
    attention, qkv = built("t5-bias", case), [x.detach().requires_grad_() for x in draw("t5-bias", case)]
    attention.bias_HU.requires_grad_(requires_grad=False)
    fused = attention(*qkv)
    gradients = torch.autograd.grad(fused.sum(), qkv)
    monkeypatch.setattr(bias, "kernel_for", lambda _device: PLAIN)
    monkeypatch.setattr(bias, "_DEVICE_SCORES", 16 * 70 * 8)
    plain = attention(*qkv)
    assert_near(plain, fused, 1e-12)
    for found, true in zip(torch.autograd.grad(plain.sum(), qkv), gradients, strict=True):
        assert_near(found, true, 1e-12)


def test_biases_are_drawn_by_the_seed_and_as_large_as_t5s():
    drawn = [built("t5-bias", _t5(8, seed=seed, shape={"heads": 64, "kv_heads": 64})).bias_HU for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert drawn[0].std().item() == pytest.approx((64 * 4) ** -0.5, rel=0.1)


@as_subtests("mask", MASKS)
def test_memory_grows_with_the_length_and_not_with_its_square(monkeypatch, mask):
    monkeypatch.setattr(bias, "_CPU_SCORES", 2**14)

    def peak(length):
        case = _t5(length, mask=mask, dtype="float32")
        attention, qkv = built("t5-bias", case), draw("t5-bias", case)
        return peak_bytes(lambda: torch.autograd.grad(attention(*qkv).sum(), (*qkv, attention.bias_HU)))

    assert peak(2048) < 2.2 * peak(1024)


def test_a_distance_that_is_no_longer_than_the_single_buckets_is_refused():
    with pytest.raises(Unsupported, match="above the 16 distances"):
        built("t5-bias", _t5(8, {"distance": 16}, mask=Mask(causal=True)))


def test_options_are_the_papers_by_default():
    assert complete_options(T5Bias, {}) == T5Bias.Options(buckets=32, distance=128, scale=True)
