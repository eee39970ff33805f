"""Kernels on CUDA, with packages simulated: which `flash` takes, and what each is told; all compute with `vanilla`."""

import sys
import types
from importlib import metadata

import msgspec
import pytest
import torch

from attnbench import Mask, Unsupported
from attnbench.contracts.variant import build
from attnbench_variants.blocks import fused_kernels as fused
from attnbench_variants.exact import pinned
from attnbench_variants.exact.flash import Flash
from attnbench_variants.exact.flash_packages import FlashAttn2, FlashAttn3, FlashAttn4, XformersFlash
from attnbench_variants.exact.pinned import proved
from attnbench_variants.exact.sdpa import SdpaCudnn, SdpaEfficient
from attnbench_variants.exact.torch_kernels import torch_flash
from attnbench_variants.exact.vanilla import Vanilla
from helpers.subtests import as_subtests
from laws.workloads import WORKLOADS, assert_near, draw

PACKAGES = (
    "flash_attn",
    "flash_attn.cute",
    "flash_attn.flash_attn_interface",
    "flash_attn_interface",
    "xformers",
    "xformers.ops",
    "xformers.ops.fmha.attn_bias",
)
VERSIONS = {"flash-attn": "2.8.3", "flash_attn_3": "3.0.0", "flash-attn-4": "4.0.0"}


@pytest.fixture(autouse=True)
def cuda_on_the_cpu(monkeypatch):
    """Show kernels of the list for CUDA their example on the CPU, and no package unless a test brings it."""
    example = fused.example

    def on_cpu(case):
        return example(msgspec.structs.replace(case, device="cpu"))

    monkeypatch.setattr(fused, "example", on_cpu)
    monkeypatch.setattr(pinned, "example", on_cpu)
    monkeypatch.setattr(metadata, "version", VERSIONS.__getitem__)
    for package in PACKAGES:
        monkeypatch.setitem(sys.modules, package, None)


def _case(workload="full", **changes):
    given = {"variant": "flash", "device": "cuda", "dtype": "float32"} | changes
    return msgspec.structs.replace(WORKLOADS[workload], **given)


def _attend(q, k, v, *, causal, window):
    """Attend in the packages' layout, [B, T, H, D], by the sides of the window."""
    before, after = window
    assert after in ((0, -1) if causal else (before,))
    mask = Mask(causal=causal, window=None if before < 0 else before + 1)
    vanilla = Vanilla(_case(mask=mask))
    return vanilla(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)


def _flash_attn_func(q, k, v, *, causal, window_size):
    return _attend(q, k, v, causal=causal, window=window_size)


def _install(monkeypatch, name, **attributes):
    module = types.ModuleType(name)
    vars(module).update(attributes)
    monkeypatch.setitem(sys.modules, name, module)


def _install_flash_attn2(monkeypatch, function=_flash_attn_func):
    _install(monkeypatch, "flash_attn.flash_attn_interface", flash_attn_func=function)


def _install_flash_attn3(monkeypatch, function=_flash_attn_func):
    _install(monkeypatch, "flash_attn_interface", flash_attn_func=function)


def _flash_attn4_func(q, k, v, *, causal, window_size):
    assert -1 not in window_size
    return _attend(q, k, v, causal=causal, window=tuple(-1 if side is None else side for side in window_size))


def _install_flash_attn4(monkeypatch, function=_flash_attn4_func):
    _install(monkeypatch, "flash_attn.cute", flash_attn_func=function)


class _LocalAttention:
    def __init__(self, *, window_left, window_right):
        self.sides = window_left, window_right


class _LowerTriangular:
    sides = -1, 0


def _install_xformers(monkeypatch, operators=("flash forward", "flash backward")):
    def attend(q, k, v, *, attn_bias, op):
        assert op is operators
        before, after = attn_bias.sides if attn_bias else (-1, -1)
        return _attend(q, k, v, causal=after == 0, window=(before, after))

    _install(monkeypatch, "xformers", __version__="0.0.35")
    _install(
        monkeypatch,
        "xformers.ops",
        memory_efficient_attention=attend,
        MemoryEfficientAttentionFlashAttentionOp=operators,
    )
    _install(
        monkeypatch,
        "xformers.ops.fmha.attn_bias",
        LocalAttentionFromBottomRightMask=_LocalAttention,
        LowerTriangularFromBottomRightMask=_LowerTriangular,
    )


def test_without_packages_torchs_own_kernel_runs():
    assert Flash(_case()).backend == f"torch-flash {torch.__version__.partition('+')[0]}"


def test_the_fastest_installed_flash_attn_is_taken(monkeypatch):
    _install_xformers(monkeypatch)
    assert Flash(_case()).backend == "xformers-flash 0.0.35"
    _install_flash_attn2(monkeypatch)
    assert Flash(_case()).backend == "flash-attn 2.8.3"
    _install_flash_attn4(monkeypatch)
    assert Flash(_case()).backend == "flash-attn 4.0.0"
    _install_flash_attn3(monkeypatch)
    assert Flash(_case()).backend == "flash-attn 3.0.0"


def test_a_kernel_that_does_not_serve_the_gpu_is_passed_over(monkeypatch):
    def hopper_only(*_, **__):
        raise RuntimeError("FlashAttention only supports Hopper GPUs or newer")

    _install_flash_attn3(monkeypatch, hopper_only)
    _install_flash_attn2(monkeypatch)
    assert Flash(_case()).backend == "flash-attn 2.8.3"


def test_a_kernel_without_a_backward_pass_serves_forward_cases_only(monkeypatch):
    _install_flash_attn2(monkeypatch, lambda q, k, v, **how: _flash_attn_func(q, k, v, **how).detach())
    assert Flash(_case(passes="forward")).backend == "flash-attn 2.8.3"
    assert Flash(_case(passes="backward")).backend.startswith("torch-flash ")


def test_a_refusal_lists_the_reason_of_every_kernel(monkeypatch):
    _install_flash_attn2(monkeypatch, lambda *_, **__: 1 / 0)
    with pytest.raises(Unsupported) as refusal:
        Flash(_case("causal-window"))
    for reason in (
        "flash-attn 3: ",
        "flash-attn 4: ",
        "flash-attn 2: division by zero",
        "xformers: ",
        "torch: torch's fused kernels have no window",
    ):
        assert reason in str(refusal.value)


@pytest.mark.parametrize(
    "install", [_install_flash_attn2, _install_flash_attn3, _install_flash_attn4, _install_xformers]
)
@as_subtests(
    "workload", ["full", "causal", "causal-window", "full-window", "causal-fewer-queries", "full-more-queries"]
)
def test_masks_and_windows_reach_a_package_in_its_own_terms(monkeypatch, install, workload):
    install(monkeypatch)
    case = _case(workload)
    qkv = draw("flash", case)
    attention = Flash(case)
    assert not attention.backend.startswith("torch")
    out = attention(*qkv)
    assert out.shape == qkv[0].shape
    assert_near(out, Vanilla(case)(*qkv), 1e-6)


def test_grouped_heads_are_not_given_to_xformers(monkeypatch):
    _install_xformers(monkeypatch)
    assert Flash(_case("full-grouped")).backend.startswith("torch-flash ")
    _install_flash_attn2(monkeypatch)
    assert Flash(_case("full-grouped")).backend == "flash-attn 2.8.3"


def test_early_flash_attn_3_also_returns_the_log_sum_exp(monkeypatch):
    _install_flash_attn3(monkeypatch, lambda q, k, v, **how: (_flash_attn_func(q, k, v, **how), torch.zeros(1)))
    case = _case()
    qkv = draw("flash", case)
    assert_near(Flash(case)(*qkv), Vanilla(case)(*qkv), 1e-6)


PACKAGED = [
    (FlashAttn2, _install_flash_attn2, "flash-attn 2.8.3"),
    (FlashAttn3, _install_flash_attn3, "flash-attn 3.0.0"),
    (FlashAttn4, _install_flash_attn4, "flash-attn 4.0.0"),
    (XformersFlash, _install_xformers, "xformers-flash 0.0.35"),
]


@pytest.mark.parametrize(("pinned_variant", "install", "name"), PACKAGED)
def test_a_package_requested_by_name_is_used_whatever_else_is_installed(monkeypatch, pinned_variant, install, name):
    for _, each, _ in PACKAGED:
        each(monkeypatch)
    attention = build(pinned_variant, _case("causal-window", dtype="bfloat16"))
    assert attention.backend == name
    case = _case("causal-window")
    qkv = draw("flash", case)
    assert_near(attention(*qkv), Vanilla(case)(*qkv), 1e-6)


@pytest.mark.parametrize(("pinned_variant", "install", "name"), PACKAGED)
def test_a_package_that_is_not_there_is_refused_with_its_imports_reason(pinned_variant, install, name):
    with pytest.raises(Unsupported, match=r"import of \S+ halted"):
        build(pinned_variant, _case(dtype="bfloat16"))


@as_subtests("variant", [FlashAttn2, FlashAttn3, FlashAttn4, XformersFlash, SdpaEfficient, SdpaCudnn])
def test_a_kernel_for_gpus_only_says_so_on_a_cpu(variant):
    with pytest.raises(Unsupported, match="device cpu is not served"):
        build(variant, _case(device="cpu"))


@as_subtests("variant", [SdpaEfficient, SdpaCudnn])
def test_a_backend_that_torch_lacks_is_refused_with_torchs_reason(variant):
    with pytest.raises(Unsupported, match=r"torch-\w+: No viable backend"):
        build(variant, _case(dtype="bfloat16"))


@as_subtests("variant", [SdpaEfficient, SdpaCudnn])
def test_torchs_fused_kernels_have_no_window(variant):
    with pytest.raises(Unsupported, match="no window"):
        build(variant, _case("causal-window", dtype="bfloat16"))


def test_cudnn_is_not_asked_for_fewer_causal_queries_than_keys():
    with pytest.raises(Unsupported, match="at the first key"):
        build(SdpaCudnn, _case("causal-fewer-queries", dtype="bfloat16"))


def test_on_cuda_torchs_kernel_is_told_to_align_fewer_causal_queries_at_the_last_key():
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=100, seq_k=200)
    case = _case("causal", shape=shape)
    qkv = draw("flash", case)
    assert_near(proved(torch_flash, case)(*qkv), Vanilla(case)(*qkv), 1e-6)
