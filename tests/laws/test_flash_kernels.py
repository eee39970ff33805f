"""Which kernel `flash` takes on CUDA, with the packages simulated: each computes with `vanilla` in its own layout."""

import sys
import types
from importlib import metadata

import msgspec
import pytest
import torch

from attnbench import Mask, Unsupported
from attnbench_variants.blocks import fused
from attnbench_variants.exact import flash
from attnbench_variants.exact.flash import Flash
from attnbench_variants.exact.vanilla import Vanilla
from laws.workloads import WORKLOADS, assert_near, draw

PACKAGES = ("flash_attn", "flash_attn_interface", "xformers", "xformers.ops", "xformers.ops.fmha.attn_bias")


@pytest.fixture(autouse=True)
def cuda_on_the_cpu(monkeypatch):
    """Show kernels of the list for CUDA their example on the CPU, and no package unless a test brings it."""
    example = fused.example

    def on_cpu(case):
        return example(msgspec.structs.replace(case, device="cpu"))

    monkeypatch.setattr(fused, "example", on_cpu)
    monkeypatch.setattr(flash, "example", on_cpu)
    for package in PACKAGES:
        monkeypatch.setitem(sys.modules, package, None)


def _case(workload="full", **changes):
    return msgspec.structs.replace(WORKLOADS[workload], variant="flash", device="cuda", dtype="float32", **changes)


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
    _install(monkeypatch, "flash_attn", flash_attn_func=function, __version__="2.8.3")


def _install_flash_attn3(monkeypatch, function=_flash_attn_func):
    _install(monkeypatch, "flash_attn_interface", flash_attn_func=function)
    monkeypatch.setattr(metadata, "version", {"flash_attn_3": "3.0.0"}.__getitem__)


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


def test_the_newest_installed_flash_attn_is_taken(monkeypatch):
    _install_xformers(monkeypatch)
    assert Flash(_case()).backend == "xformers-flash 0.0.35"
    _install_flash_attn2(monkeypatch)
    assert Flash(_case()).backend == "flash-attn 2.8.3"
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


def test_a_refusal_holds_every_kernels_reason(monkeypatch):
    _install_flash_attn2(monkeypatch, lambda *_, **__: 1 / 0)
    with pytest.raises(Unsupported) as refusal:
        Flash(_case("causal-window"))
    for reason in ("flash-attn 3: ", "flash-attn 2: division by zero", "xformers: ", "torch: its flash kernel has no"):
        assert reason in str(refusal.value)


@pytest.mark.parametrize("install", [_install_flash_attn2, _install_flash_attn3, _install_xformers])
@pytest.mark.parametrize(
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


def test_grouped_heads_pass_xformers_by(monkeypatch):
    _install_xformers(monkeypatch)
    assert Flash(_case("full-grouped")).backend.startswith("torch-flash ")
    _install_flash_attn2(monkeypatch)
    assert Flash(_case("full-grouped")).backend == "flash-attn 2.8.3"


def test_early_flash_attn_3_also_returns_the_log_sum_exp(monkeypatch):
    _install_flash_attn3(monkeypatch, lambda q, k, v, **how: (_flash_attn_func(q, k, v, **how), torch.zeros(1)))
    case = _case()
    qkv = draw("flash", case)
    assert_near(Flash(case)(*qkv), Vanilla(case)(*qkv), 1e-6)
