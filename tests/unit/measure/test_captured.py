"""Inputs that were captured in a model: what is read of the file, and that every mechanism meets the same."""

import pytest
import torch
from msgspec.structs import asdict, replace
from safetensors.torch import save_file

from attnbench.contracts.case import Case, Mask, Shape
from attnbench.contracts.errors import UsageError
from attnbench.contracts.specs import parse_specs
from attnbench.contracts.suite import Sweep
from attnbench.contracts.variant import Unsupported, build, complete_options
from attnbench.measure import captured
from attnbench.measure.agreement import relative_error
from attnbench.measure.reference import exact_attention
from attnbench.planning.inputs import find_capture, refuse_what_captures_fix, shipped, swept_cases, usual_cases
from attnbench.planning.plan import check
from attnbench.planning.request import Request
from attnbench.plugins import registry

SHAPE = Shape(batch=1, heads=4, kv_heads=4, seq_q=6, seq_k=6, head_dim=8)


@pytest.fixture
def file(tmp_path):
    generator = torch.Generator().manual_seed(1)
    tensors = {f"{layer}.q": torch.randn(1, 4, 6, 8, generator=generator) for layer in (2, 11)}
    tensors |= {f"{layer}.{name}": torch.randn(1, 2, 6, 8, generator=generator) for layer in (2, 11) for name in "kv"}
    path = tmp_path / "heads.safetensors"
    save_file(tensors, path, metadata={"causal": "true", "scale": "0.5", "model": "tiny", "text": "a poem"})
    return path, tensors


def case(path, layer=2, **changes):
    return replace(
        Case(variant="it", shape=SHAPE, mask=Mask(causal=True), inputs=f"file:{path.name}:{layer}"), **changes
    )


def test_attention_on_a_capture_is_the_model_s_own_whatever_the_scale_of_its_scores(file):
    path, tensors = file
    (inputs,) = captured.load(case(path, dtype="float64"), path, sets=1)
    out = exact_attention(*inputs.tensors, mask=Mask(causal=True))
    k, v = (tensors[f"2.{name}"].repeat_interleave(2, dim=1).double() for name in "kv")
    scores = tensors["2.q"].double() @ k.mT * 0.5
    hidden = torch.ones(6, 6).triu(1).bool()
    assert torch.allclose(out, scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v, atol=1e-6)


def test_shared_keys_are_repeated_for_each_head_unless_the_case_shares_them(file):
    path, tensors = file
    (whole,) = captured.load(case(path), path, sets=1)
    (shared,) = captured.load(case(path, shape=replace(SHAPE, kv_heads=2)), path, sets=1)
    assert whole.k_BGSD.shape[1] == 4
    assert torch.equal(shared.v_BGSD, tensors["2.v"])
    assert torch.equal(whole.v_BGSD[:, 1], tensors["2.v"][:, 0])


def test_further_sets_differ_and_keep_the_keys_of_each_head(file):
    path, _ = file
    first, second = captured.load(case(path, shape=replace(SHAPE, kv_heads=2)), path, sets=2)
    assert not torch.equal(first.q_BHTD, second.q_BHTD)
    outs = [exact_attention(*each.tensors, mask=Mask(causal=True)) for each in (first, second)]
    assert torch.allclose(outs[0].roll(2, dims=1), outs[1])


def test_a_decoded_token_is_the_last_query_and_a_tied_mechanism_has_its_queries_as_keys(file):
    path, _ = file
    (decode,) = captured.load(case(path, passes="decode", shape=replace(SHAPE, seq_q=1)), path, sets=1)
    assert decode.q_BHTD.shape == (1, 4, 1, 8)
    (tied,) = captured.load(case(path), path, sets=1, tied=True)
    assert tied.k_BGSD is tied.q_BHTD


def test_a_capture_has_no_tokens_for_the_layer_level(file):
    with pytest.raises(Unsupported, match="no tokens"):
        captured.load(case(file[0], level="layer"), file[0], sets=1)


def test_a_file_fixes_the_shape_and_the_mask_and_its_hash_is_in_the_key(file):
    path, tensors = file
    swept = Sweep(seq="64,128", heads=8, head_dim=64, batch=1, passes="forward,decode", inputs=f"file:{path}")
    cases, (capture,) = swept_cases(swept)
    assert [(each.shape.seq_q, each.passes) for each in cases] == [(6, "forward"), (1, "decode")] * 2
    assert all(each.mask.causal and each.shape.kv_heads == 4 for each in cases)
    assert capture.model == "tiny"
    other = path.with_name("elsewhere") / path.name
    other.parent.mkdir()
    save_file({name: x + 1 for name, x in tensors.items()}, other, metadata={"causal": "true", "scale": "0.5"})
    names = [find_capture(f"file:{each}").name for each in (path, other)]
    assert names[0] != names[1]
    assert all(name.startswith("file:heads.safetensors@") for name in names)


def test_one_layer_of_a_file_may_be_named(file):
    swept = Sweep(seq=64, heads=8, head_dim=64, batch=1, inputs=f"file:{file[0]}:11")
    assert [each.inputs[-3:] for each in swept_cases(swept)[0]] == [":11"]
    with pytest.raises(UsageError, match="has no layer 3; it has 2, 11"):
        find_capture(f"file:{file[0]}:3")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("file:/no/such", "there is no file '/no/such'"),
        ("minilmm", "did you mean 'minilm'"),
        (f"file:{__file__}", "is no capture"),
    ],
)
def test_a_wrong_name_or_file_is_one_sentence_with_the_fix(word, said):
    with pytest.raises(UsageError, match=said):
        find_capture(word)


def test_flags_that_a_capture_fixes_are_refused(file):
    with pytest.raises(UsageError, match=r"--seq: .* has its own"):
        refuse_what_captures_fix(Sweep(seq=64, inputs=f"file:{file[0]}"))
    refuse_what_captures_fix(Sweep(seq=64, inputs=f"normal,file:{file[0]}"))


def test_agreement_is_measured_on_shipped_captures_once_for_each_mask_whatever_lengths_are_swept():
    swept, _ = swept_cases(Sweep(seq="64..1024", heads=8, head_dim=64, batch=1, causal=False))
    assert [case.inputs for case in usual_cases(swept)] == ["minilm:1"]
    causal, _ = swept_cases(Sweep(seq="64..1024", heads=8, head_dim=64, batch=1, causal=True))
    (case,) = usual_cases(causal)
    assert case.inputs.startswith("smollm2:")
    assert case.mask.causal


def test_every_shipped_capture_names_its_model_its_text_and_its_licence():
    assert len(shipped()) >= 2
    for capture in shipped():
        assert capture.model
        assert capture.text
        listed = (capture.path.parent / "README.md").read_text()
        assert capture.path.name in listed
        assert "LICENSE.Apache-2.0.txt" in listed


@pytest.mark.parametrize("search", ["fit", "refine"])
def test_a_search_over_lengths_is_refused_on_a_capture_which_has_one(search):
    flag = f"--{search}: captured inputs have one length"
    with pytest.raises(UsageError, match=flag):
        check(
            Request(sweep=Sweep(inputs="normal,smollm2"), **{search: True}), narrow=lambda sweep, _flags: (sweep, None)
        )


def error_on(inputs, spec):
    """Return a variant's error on a shipped capture against exact attention in float64 on the same."""
    capture, mechanism = find_capture(inputs), parse_specs(spec, flag="")[0]
    plugin = registry.load(registry.find(mechanism.name, "variants", flag="").target)
    ((layer, shape),) = capture.shapes.items()
    at = Case(
        variant=mechanism.name,
        options=asdict(complete_options(plugin, mechanism.options)),
        shape=replace(shape, kv_heads=shape.heads),
        mask=capture.mask,
        inputs=f"{inputs}:{layer}",
    )
    (first,) = captured.load(at, capture.path, sets=1)
    with torch.no_grad():
        out = build(plugin, at)(*first.tensors)
    return relative_error([out], [exact_attention(*first.widened().tensors, mask=at.mask)])


def test_the_shipped_captures_tell_apart_what_drawn_normals_do_not():
    assert error_on("smollm2", "longformer:width=64") < 0.8 * error_on("smollm2", "window:width=256")
    for inputs in ("smollm2", "minilm"):
        floor = error_on(inputs, "uniform")
        assert error_on(inputs, "linear") == pytest.approx(floor, rel=0.05)
        assert error_on(inputs, "bigbird:block=64") < 0.25 * floor
        assert error_on(inputs, "vanilla") < 1e-5
