"""Captured inputs: a capture is read as its model had it, by every variant alike; shipped ones tell variants apart."""

from pathlib import Path

import pytest
import torch
from msgspec.structs import asdict, replace
from safetensors import safe_open
from safetensors.torch import save_file

from attnbench.contracts.case import Case, Mask
from attnbench.contracts.errors import UsageError
from attnbench.contracts.specs import parse_specs
from attnbench.contracts.suite import Sweep
from attnbench.contracts.variant import Unsupported, complete_options
from attnbench.measure.agreement import relative_error
from attnbench.measure.captured import read
from attnbench.measure.reference import exact_attention
from attnbench.measure.workload import Workload
from attnbench.planning.captures import captured, check_flags
from attnbench.planning.cases import cases
from attnbench.plugins import registry
from helpers.subtests import as_subtests

SIZES = Sweep(heads=8, head_dim=64, batch=1, seq="64,128")


def written(folder: Path, *, causal: bool = True, scale: float = 0.5, layers: tuple[int, ...] = (3,)) -> Path:
    """Write a capture of random numbers: 4 heads that share 2 key heads of 8 features, 16 tokens."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"{layer}.{name}": torch.randn(1, 4 if name == "q" else 2, 16, 8, generator=generator)
        for layer in layers
        for name in "qkv"
    }
    path = folder / "heads.safetensors"
    save_file(tensors, path, metadata={"causal": str(causal).lower(), "scale": str(scale)})
    return path


def case_of(inputs: str, **changed: object) -> Case:
    (case,) = cases(replace(SIZES, inputs=inputs, **changed))
    return case


def test_a_file_fixes_heads_head_size_length_and_mask_whatever_is_swept(tmp_path: Path) -> None:
    path = written(tmp_path)
    case = case_of(f"file:{path}", window=5)
    assert (case.shape.heads, case.shape.kv_heads, case.shape.head_dim, case.length) == (4, 4, 8, 16)
    assert (case.mask, case.inputs) == (Mask(causal=True, window=5), "file:heads.safetensors")
    assert case_of(f"file:{path}", kv_heads=2).shape.kv_heads == 2
    decode = case_of(f"file:{path}", passes="decode")
    assert (decode.shape.seq_q, decode.length) == (1, 16)


def test_the_content_of_a_file_is_in_the_key_and_drawn_cases_keep_theirs(tmp_path: Path) -> None:
    before = case_of(f"file:{written(tmp_path)}")
    after = case_of(f"file:{written(tmp_path, scale=0.25)}")
    assert before.inputs == after.inputs
    assert before.key != after.key
    assert [case.inputs_digest for case in cases(SIZES)] == ["", ""]


def test_each_layer_of_a_file_is_a_case_unless_one_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, layers=(3, 12))
    assert [case.inputs for case in cases(replace(SIZES, inputs=f"file:{path}"))] == [
        "file:heads.safetensors:3",
        "file:heads.safetensors:12",
    ]
    assert case_of(f"file:{path}:12").inputs == "file:heads.safetensors:12"


@pytest.mark.parametrize("kv_heads", [None, 2])
def test_what_is_read_gives_the_models_scores_with_the_usual_scale(kv_heads: int | None, tmp_path: Path) -> None:
    path = written(tmp_path, scale=0.5)
    case = case_of(f"file:{path}", dtype="float64", kv_heads=kv_heads)
    first, other, _ = read(case, path, sets=3)
    assert first.k_BGSD.shape[1] == (kv_heads or 4)
    with safe_open(path, "pt") as file:
        q, k, v = (file.get_tensor(f"3.{name}").double() for name in "qkv")
    k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    hidden = torch.ones(16, 16, dtype=torch.bool).triu(1)
    wanted = (0.5 * q @ k.transpose(2, 3)).masked_fill(hidden, float("-inf")).softmax(-1) @ v
    assert torch.allclose(exact_attention(*first.tensors, mask=case.mask), wanted)
    assert torch.allclose(exact_attention(*other.tensors, mask=case.mask), wanted.roll(1, 3))  # the same attention
    assert not torch.equal(first.v_BGSD, other.v_BGSD)


def test_a_file_that_changed_since_it_was_planned_is_refused(tmp_path: Path) -> None:
    case = case_of(f"file:{written(tmp_path)}")
    with pytest.raises(ValueError, match="has changed since the run was planned"):
        read(case, written(tmp_path, scale=0.1), sets=1)


@as_subtests(
    "flags, told",
    [
        (Sweep(seq=64), "--seq: the capture file:heads.safetensors has 16, not 64"),
        (Sweep(heads=8), "--heads"),
        (Sweep(width=32), "--width"),
        (Sweep(kv_heads=3), "--kv-heads: the capture file:heads.safetensors has 2, or repeated 4"),
        (Sweep(causal=False), "--causal"),
        (Sweep(level="layer"), "--level"),
    ],
)
def test_a_flag_that_contradicts_a_capture_is_named_in_one_sentence(flags: Sweep, told: str, tmp_path: Path) -> None:
    sweep = Sweep(inputs=f"file:{written(tmp_path)}")
    with pytest.raises(UsageError, match=told):
        check_flags(flags, sweep)
    check_flags(Sweep(seq=16, heads=4, kv_heads=2, causal=True, window=3), sweep)


@as_subtests(
    "inputs, told",
    [
        ("norml", "did you mean 'normal'"),
        ("file:nowhere.safetensors", "there is no file"),
        ("minilm:9", "there is no layer 9; there are 1"),
        ("minilm:first", "is not a layer"),
    ],
)
def test_inputs_that_do_not_exist_are_named_with_what_does(inputs: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        cases(replace(SIZES, inputs=inputs))


def test_a_file_that_is_no_capture_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "a.safetensors"
    text.write_text("not tensors")
    with pytest.raises(UsageError, match="is no safetensors file"):
        captured(f"file:{text}")
    save_file({"weight": torch.zeros(2)}, text)
    with pytest.raises(UsageError, match="is no capture"):
        captured(f"file:{text}")


def error_on(inputs: str, variant: str) -> float:
    """Return a variant's error on captured inputs against exact attention on the same."""
    (spec,) = parse_specs(variant, flag="")
    (one,) = captured(inputs)
    plugin = registry.load(registry.find(spec.name, "variants", flag="").target)
    options = asdict(complete_options(plugin, spec.options))
    case = replace(case_of(inputs), variant=spec.name, options=options)
    workload = Workload(case, plugin, sets=1, inputs_path=one.path)
    first = workload.sets[0]
    with torch.no_grad():
        out = workload.attention(*first.tensors)
    return relative_error([out], [exact_attention(*first.widened().tensors, mask=case.mask)])


def test_the_shipped_captures_separate_variants_as_the_models_do() -> None:
    assert error_on("smollm2", "longformer:width=64") < 0.8 * error_on("smollm2", "window:width=256")
    for inputs in ("smollm2", "minilm"):
        floor = error_on(inputs, "uniform")
        assert abs(error_on(inputs, "linear") / floor - 1) < 0.05
        assert error_on(inputs, "bigbird:block=64") < 0.25 * floor
        assert error_on(inputs, "vanilla") < 1e-5


def test_a_variant_without_a_causal_form_refuses_a_causal_capture() -> None:
    with pytest.raises(Unsupported):
        error_on("smollm2", "linformer")
