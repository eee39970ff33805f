"""Queries, keys and values of a pretrained model's self-attention on a text, written as a file of inputs."""

# B batch, H heads, G key/value heads, T positions, D head dimension
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from msgspec import Struct
from safetensors.torch import save_file

from attnbench.contracts.case import Mask
from attnbench.contracts.errors import UsageError
from attnbench.measure.reference import exact_attention
from attnbench.pretrained.loading import Pretrained, load

_NAME = "attnbench-capture"
_CLOSE = 1e-5  # of the model's own output: what exact attention on the captured tensors may differ by
_HALF = 2**15  # the largest size that float16 holds with room


class Layer(Struct, frozen=True, eq=False):
    """What a layer's attention was called with: tensors after their positions were added, and the scale of scores."""

    q_BHTD: torch.Tensor
    k_BGTD: torch.Tensor
    v_BGTD: torch.Tensor
    scale: float
    out_BHTD: torch.Tensor


class Text(Struct, frozen=True, kw_only=True):
    """What a model reads: a text, its name and its licence, and how many tokens of it."""

    content: str
    source: str
    licence: str = ""
    tokens: int


def capture(
    where: str, text: Text, *, layers: Sequence[int], to: Path, report: Callable[[str], None]
) -> dict[str, Any]:
    """Capture layers of a model on the first tokens of a text, write them in float16, and return what was written.

    Raises UsageError for a layer that does not exist, and for a model whose attention is not softmax(q k^T scale) v
    under a full or a causal mask: exact attention on the captured tensors must give the model's own output to 1e-5.
    """
    report("loading the model")
    pretrained = load(where)
    found = capture_layers(pretrained, pretrained.tokens(text.content, text.tokens))
    chosen = layers or range(len(found))
    missing = [layer for layer in chosen if layer >= len(found)]
    if missing:
        raise UsageError(f"--layers: there is no {missing[0]}; {pretrained.name} has {len(found)}, numbered from 0")
    for layer in chosen:
        report(f"checking layer {layer}")
        _check(found[layer], layer, causal=pretrained.causal)
    metadata = {
        "causal": "true" if pretrained.causal else "false",
        "scale": repr(found[chosen[0]].scale),
        "model": pretrained.name,
        "text": text.source,
        "licence": text.licence,
        "tokens": str(text.tokens),
    }
    save_file({name: x for layer in chosen for name, x in _named(found[layer], layer).items()}, to, metadata=metadata)
    return {**metadata, "layers": [*chosen], "bytes": to.stat().st_size}


@torch.no_grad()
def capture_layers(pretrained: Pretrained, ids_BT: torch.Tensor) -> list[Layer]:
    """Return the calls of a model's self-attention on tokens, layer by layer."""
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    found: list[Layer] = []

    def attend(module: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, **given: Any) -> Any:
        out_BTHD, weights = sdpa_attention_forward(module, q, k, v, mask, **given)
        scale = given.get("scaling") or q.shape[-1] ** -0.5
        found.append(Layer(q.clone(), k.clone(), v.clone(), float(scale), out_BTHD.transpose(1, 2).clone()))
        return out_BTHD, weights

    AttentionInterface.register(_NAME, attend)
    AttentionMaskInterface.register(_NAME, sdpa_mask)  # without it every mask would be dropped
    pretrained.model.set_attn_implementation(_NAME)
    pretrained.model(input_ids=ids_BT)
    return found


def _check(layer: Layer, number: int, *, causal: bool) -> None:
    q_BHTD = layer.q_BHTD.double() * (layer.scale * layer.q_BHTD.shape[-1] ** 0.5)
    out_BHTD = exact_attention(q_BHTD, layer.k_BGTD.double(), layer.v_BGTD.double(), mask=Mask(causal=causal))
    error = float((out_BHTD - layer.out_BHTD).norm() / layer.out_BHTD.norm())
    if not error <= _CLOSE:
        mask = "causal" if causal else "full"
        raise UsageError(
            f"MODEL: attention of layer {number} is not softmax(q k^T scale) v under a {mask} mask: it differs by "
            f"{error:.2g}; capture another layer or model"
        )


def _named(layer: Layer, number: int) -> dict[str, torch.Tensor]:
    named = {"q": layer.q_BHTD, "k": layer.k_BGTD, "v": layer.v_BGTD}
    if max(float(x.abs().max()) for x in named.values()) > _HALF:
        raise UsageError(f"--layers: values of layer {number} are too large for float16; choose another")
    return {f"{number}.{name}": x.half().contiguous() for name, x in named.items()}
