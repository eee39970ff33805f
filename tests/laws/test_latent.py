"""Multi-head latent attention, which starts from tokens."""

# B batch, T tokens, E width
import pytest
import torch
from msgspec.structs import replace

from attnbench import Mask, Unsupported
from helpers.subtests import as_subtests
from laws.memory import peak_bytes
from laws.workloads import WORKLOADS, assert_near, built, case_for
from references.latent import attend

OPTIONS = ({}, {"rank": 3, "query_rank": 5, "rotary": 4})
MASKS = (Mask(), Mask(causal=True))


def _case(options=None, *, length=11, mask=MASKS[1], **changes):
    shape = replace(WORKLOADS["full"].shape, seq_q=length, seq_k=length)
    return case_for("latent", WORKLOADS["full"], options or {}, level="layer", shape=shape, mask=mask, **changes)


def _tokens(case, *, seed=0):
    generator, shape = torch.Generator().manual_seed(seed), case.shape
    x = torch.randn(shape.batch, shape.seq_q, shape.heads * shape.head_dim, generator=generator, dtype=torch.float64)
    return x.to(getattr(torch, case.dtype)).requires_grad_()


@as_subtests("options", OPTIONS)
@as_subtests("mask", MASKS)
@as_subtests("length", [1, 2, 11])
def test_output_and_all_gradients_equal_the_slow_formulation(options, mask, length):
    case = _case(options, mask=mask, length=length)
    layer, x_BTE = built("latent", case), _tokens(case)
    out, true = layer(x_BTE), attend(layer, x_BTE, case)
    assert_near(out, true, 1e-9)
    inputs, cotangent = [x_BTE, *layer.parameters()], torch.randn_like(out)
    gradients = (torch.autograd.grad(each, inputs, cotangent) for each in (out, true))
    for gradient, its_true_value in zip(*gradients, strict=True):
        assert_near(gradient, its_true_value, 1e-9)


@as_subtests("options", OPTIONS)
@as_subtests("before", [0, 1, 6])
def test_steps_from_latents_equal_the_causal_whole(options, before, monkeypatch):
    monkeypatch.setattr("attnbench_variants.low_rank.latent._ROOM", 2)  # so that the room runs out on the way
    whole, steps = built("latent", _case(options)), built("latent", _case(options, passes="decode"))
    x_BTE, outputs = _tokens(_case(options)).detach(), []
    state = steps.prefill(x_BTE[:, :before])
    with torch.no_grad():
        for t in range(before, x_BTE.shape[1]):
            out_B1E, state = steps.step(x_BTE[:, t : t + 1], state)
            again_B1E, _ = steps.step(x_BTE[:, t : t + 1], (*state[:2], t))
            assert torch.equal(again_B1E, out_B1E)
            outputs.append(out_B1E)
        assert_near(torch.cat(outputs, dim=1), whole(x_BTE)[:, before:], 1e-12)


@as_subtests("dtype, tolerance", [("float32", 1e-5), ("float16", 2e-2), ("bfloat16", 1e-1)])
@as_subtests("passes", ["forward", "decode"])
def test_every_dtype_is_close_to_float64(dtype, tolerance, passes):
    def last_row(case):
        layer, x_BTE = built("latent", case), _tokens(replace(case, dtype=dtype)).detach()
        x_BTE = x_BTE.to(getattr(torch, case.dtype))
        with torch.no_grad():
            return (
                layer(x_BTE)[:, -1:]
                if passes == "forward"
                else layer.step(x_BTE[:, -1:], layer.prefill(x_BTE[:, :-1]))[0]
            )

    out = last_row(_case(dtype=dtype, passes=passes))
    assert out.dtype == getattr(torch, dtype)
    assert_near(out, last_row(_case(passes=passes)), tolerance)


def test_the_state_of_a_token_is_its_latent_and_one_rotary_key_for_all_heads():
    layer = built("latent", _case({"rank": 3, "rotary": 2}, passes="decode"))
    latents, keys, held = layer.prefill(_tokens(_case()).detach())
    assert (latents.shape[2], keys.shape[2], held) == (3, 2, 11)


@as_subtests("mask", MASKS)
def test_later_tokens_matter_only_without_causality(mask):
    case = _case(mask=mask)
    layer, x_BTE = built("latent", case), _tokens(case).detach()
    other_BTE = x_BTE.clone()
    other_BTE[:, 6:] += 3
    change = (layer(other_BTE) - layer(x_BTE)).abs()[:, :6].max()
    assert change < 1e-13 if mask.causal else change > 1e-3


def test_memory_grows_with_the_length_and_not_with_its_square():
    def peak(length):
        case = _case(length=length, dtype="float32")
        layer, x_BTE = built("latent", case), _tokens(case).detach()
        with torch.no_grad():
            return peak_bytes(lambda: layer(x_BTE))

    assert peak(2048) < 2.2 * peak(1024)


def test_odd_rotary_features_and_a_core_case_are_refused():
    with pytest.raises(Unsupported, match="turn in pairs"):
        built("latent", _case({"rotary": 3}))
    with pytest.raises(Unsupported, match="from tokens"):
        built("latent", replace(_case(), level="core"))
