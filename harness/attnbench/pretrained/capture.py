"""Capture the queries, keys and values that a model's attention is called with, and write them to a file.

A capture is a safetensors file: `{layer}.q` [B, H, T, D], `{layer}.k` and `{layer}.v` [B, G, S, D]. Scores are
`scale` q k^T with the tensors as they are stored, rotated and all; `Meta` lists the metadata.
"""

# B batch, H heads, G key/value heads, T queries, S keys, D head dimension
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from msgspec import Struct

from attnbench.contracts.case import Mask
from attnbench.contracts.errors import UsageError
from attnbench.measure.reference import exact_attention, visible
from attnbench.pretrained import loading
from attnbench.store.files import write_output
from attnbench.train import capture as trained

Heads = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Precision = Literal["float32", "float16"]
Report = Callable[[str], None]

INTERFACE = "attnbench-capture"  # the name under which transformers calls `_Recorder`
MOST_ERROR = 1e-5


class Meta(Struct, frozen=True, kw_only=True):
    """A capture's metadata; safetensors holds each field as text.

    `causal` is "true" or "false", `scale` that of the model's scores, `tokens` the length of the sequence, `text` the
    name of what was read, `licence` the model's.
    """

    causal: bool
    scale: float
    model: str
    text: str
    licence: str
    tokens: int

    def as_text(self) -> dict[str, str]:
        """Return the fields as safetensors holds them."""
        values = msgspec.structs.asdict(self)
        return {
            key: value if isinstance(value, str) else msgspec.json.encode(value).decode()
            for key, value in values.items()
        }


class Captured(Struct, frozen=True, kw_only=True):
    """The captured layers by number, their metadata, and by how much attention on them misses the model's own."""

    layers: dict[int, Heads]
    meta: Meta
    error: float


class _Call(Struct, frozen=True, eq=False):
    """One call of a model's attention: q_BHTD, k_BGSD, v_BGSD, what the mask adds to scores, and the output."""

    tensors: Heads
    bias: torch.Tensor | None
    scale: float
    out_BHTD: torch.Tensor


def from_pretrained(
    source: loading.Source, text: Path, *, length: int, layers: tuple[int, ...], report: Report
) -> Captured:
    """Run a pretrained model on the first `length` tokens of a text, and return what its attention was called with.

    Raises UsageError for a text that is too short, a layer that does not exist, and attention that q, k, v, a scale and
    a causal mask do not describe.
    """
    report(f"loading {source.name}")
    recorder = _register()
    model, tokenizer = loading.load(source, attention=INTERFACE)
    if model.config.is_encoder_decoder:
        raise UsageError(f"{loading.FLAG}: {source.name} has an encoder and a decoder; give a model that has one")
    ids = loading.tokens_of(model, tokenizer, text, length, asked="--seq")
    report(f"running {source.name} on {length} tokens")
    with torch.no_grad():
        model(input_ids=ids)
    calls = _chosen(recorder.calls, layers, name=source.name)
    causal = {number: _is_causal(call.bias, length, layer=number) for number, call in calls.items()}
    kinds = {
        (causal[number], call.scale, call.tensors[0].shape, call.tensors[1].shape) for number, call in calls.items()
    }
    if len(kinds) > 1:
        raise UsageError("--layers: these layers differ in mask, scale or heads; capture one kind of layer a file")
    first = next(iter(calls))
    meta = Meta(
        causal=causal[first],
        scale=calls[first].scale,
        model=source.name,
        text=text.name,
        licence=source.licence,
        tokens=length,
    )
    error = max(_checked(call, causal=meta.causal, layer=number) for number, call in calls.items())
    return Captured(layers={number: call.tensors for number, call in calls.items()}, meta=meta, error=error)


def from_checkpoint(checkpoint: Path, *, layers: tuple[int, ...]) -> Captured:
    """Run a model that attnbench trained on a test example of its task, and return what its attention was called with.

    Raises UsageError for a file that is no finished training, and for a layer that does not exist.
    """
    try:
        job, captured = trained.capture(checkpoint)
    except (OSError, ValueError) as error:
        raise UsageError(f"{loading.FLAG}: {str(checkpoint)!r} is no finished training: {error}") from error
    mask = job.case.mask
    if mask.window is not None:
        raise UsageError(f"{loading.FLAG}: {str(checkpoint)!r} attends within a window, which a capture does not hold")
    chosen = _chosen(dict(enumerate(captured)), layers, name=str(checkpoint))
    q_BHTD = captured[0].tensors[0]
    meta = Meta(
        causal=mask.causal,
        scale=q_BHTD.shape[-1] ** -0.5,
        model=f"{job.case.variant} trained on {job.probe.task}",
        text="a test example",
        licence="the trained model's own",
        tokens=q_BHTD.shape[2],
    )
    return Captured(layers={number: one.tensors for number, one in chosen.items()}, meta=meta, error=0.0)


def write(captured: Captured, path: Path, *, precision: Precision) -> None:
    """Write a capture. Raises UsageError where the file cannot be written."""
    from safetensors.torch import save

    dtype = getattr(torch, precision)
    tensors = {
        f"{layer}.{name}": tensor.to(dtype).contiguous()
        for layer, heads in captured.layers.items()
        for name, tensor in zip("qkv", heads, strict=True)
    }
    largest = max(float(tensor.abs().max()) for tensor in tensors.values())
    if not largest < float("inf"):
        raise UsageError(f"--dtype: a captured value is too large for {precision}; write --dtype float32")
    try:
        write_output(path, save(tensors, metadata=captured.meta.as_text()))
    except OSError as error:
        raise UsageError(f"--output: {path} cannot be written ({error.strerror}); name another file") from None


class _Recorder:
    """The attention that transformers calls: the model's own, whose arguments and output are kept by layer."""

    def __init__(self) -> None:
        self.calls: dict[int, _Call] = {}

    # The arguments beyond these are each model's own (soft-caps, sinks, biases), so they are passed on unread.
    def __call__(
        self,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **others: Any,
    ) -> Any:
        own = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        if own is None:
            raise UsageError(f"{loading.FLAG}: {type(module).__name__} has no plain form to check a capture against")
        result = own(module, query, key, value, attention_mask, **others)
        number = getattr(module, "layer_idx", None)
        scale = others.get("scaling")
        self.calls[len(self.calls) if number is None else number] = _Call(
            (query, key, value),
            attention_mask,
            query.shape[-1] ** -0.5 if scale is None else float(scale),
            result[0].transpose(1, 2),
        )
        return result


def _register() -> _Recorder:
    """Register a recorder as an attention of transformers, given the masks of the plain form, which hide nothing."""
    transformers = loading.require_transformers()
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    recorder = _Recorder()
    transformers.AttentionInterface.register(INTERFACE, recorder)
    AttentionMaskInterface.register(INTERFACE, eager_mask)
    return recorder


def _chosen(found: Mapping[int, Any], layers: tuple[int, ...], *, name: str) -> dict[int, Any]:
    """Return the chosen layers, or all of them."""
    if not found:
        raise UsageError(f"{loading.FLAG}: {name} does not call its attention by transformers' interface; give another")
    for layer in layers:
        if layer not in found:
            raise UsageError(
                f"--layers: there is no {layer}; layers with attention are {', '.join(map(str, sorted(found)))}"
            )
    return {layer: found[layer] for layer in layers or sorted(found)}


def _is_causal(bias: torch.Tensor | None, length: int, *, layer: int) -> bool:
    """Return whether a mask, as it is added to scores, is causal; without one, all keys are visible."""
    if bias is None or not bias.any():
        return False
    rows = torch.arange(length)
    wanted = visible(Mask(causal=True), rows, queries=length, keys=length)
    shown = bias == 0
    hides = (bias <= torch.finfo(bias.dtype).min) | shown
    if bool(hides.all()) and bool((shown == wanted).all()):
        return True
    raise UsageError(
        f"--layers: layer {layer} has a mask that is neither full nor causal (a window or a bias); choose another layer"
    )


def _checked(call: _Call, *, causal: bool, layer: int) -> float:
    """Return by how much exact attention on a call's tensors misses the model's own output. Raises UsageError."""
    q_BHTD, k_BGSD, v_BGSD = (tensor.double() for tensor in call.tensors)
    if k_BGSD.shape != v_BGSD.shape or q_BHTD.shape[-1] != k_BGSD.shape[-1]:
        raise UsageError(f"--layers: in layer {layer} keys and values differ in size, which a capture does not hold")
    scaled_BHTD = q_BHTD * (call.scale * q_BHTD.shape[-1] ** 0.5)
    out_BHTD = exact_attention(scaled_BHTD, k_BGSD, v_BGSD, mask=Mask(causal=causal))
    error = float((out_BHTD - call.out_BHTD).norm() / out_BHTD.norm())
    if not error <= MOST_ERROR:
        raise UsageError(
            f"--layers: attention on what layer {layer} is called with misses the model's own by {error:.2g}: it has "
            "biases, soft-caps or sinks, which a capture does not hold; choose another layer or model"
        )
    return error
