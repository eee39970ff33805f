"""The swap probe on a pretrained model: its loss on a text with a mechanism in place of its attention, untuned."""

# B batch, H heads, G key/value heads, T positions, D head dimension, V tokens of the vocabulary
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace
from torch.nn.functional import cross_entropy

from attnbench.contracts import variant
from attnbench.contracts.case import Case, Mask, Shape
from attnbench.contracts.record import Job, Outcome, Swap
from attnbench.contracts.variant import Unsupported
from attnbench.plugins import registry
from attnbench.pretrained import loading
from attnbench.train.loop import Score
from attnbench.train.measurements import of_swapped

_NAME = "attnbench-swap"
_TOKENS = "--swap: tokens"


def measure(job: Job, report: Callable[[str], None]) -> Outcome:
    """Return the loss per token, in nats, of a language model on a text, swapped and its own; nothing is trained.

    Raises Unsupported where the mechanism does not serve it, UsageError for a model or a text that cannot be read.
    """
    swap = job.probe.swap
    assert swap is not None
    report("loading the model")
    model, tokenizer = loading.load(loading.locate(swap.model), attention="sdpa", head=True)
    ids_BT = loading.tokens_of(model, tokenizer, Path(swap.text), swap.tokens, asked=_TOKENS)
    own = _score(model, ids_BT)
    report("swapping")
    mechanisms = Mechanisms(job, registry.load(job.target))
    swapped = _swapped_score(model, ids_BT, mechanisms)
    return Outcome(
        status="ok",
        measurements=of_swapped("swap", swapped, own),
        backend=mechanisms.backend,
        facts={
            "exact_loss": own.loss,
            "exact_accuracy": own.accuracy,
            "answers": own.answers,
            "steps": 0,
            "untrained_parameters": mechanisms.parameters,
            "layers_swapped": ", ".join(map(str, swap.layers)) or "all",
        },
    )


class Mechanisms:
    """An attention function of transformers that calls a mechanism, one built for each layer."""

    def __init__(self, job: Job, plugin: Any) -> None:
        assert job.probe.swap is not None
        self.case, self.plugin, self.layers = job.case, plugin, job.probe.swap.layers
        self.exact_tokens = job.probe.swap.exact_tokens
        self.built: dict[int, variant.Attention] = {}

    @property
    def backend(self) -> str:
        """The kernel that ran."""
        return variant.backend_of(next(iter(self.built.values()))) if self.built else ""

    @property
    def parameters(self) -> int:
        """The number of the mechanisms' own parameters, which nothing has trained."""
        modules = [each for each in self.built.values() if isinstance(each, torch.nn.Module)]
        return sum(parameter.numel() for each in modules for parameter in each.parameters())

    def __call__(
        self, module: Any, q_BHTD: torch.Tensor, k_BGTD: torch.Tensor, v_BGTD: torch.Tensor, mask: Any, **given: Any
    ) -> tuple[torch.Tensor, None]:
        """Return out_BTHD, and no weights."""
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        def exact() -> torch.Tensor:
            exact_BTHD: torch.Tensor = sdpa_attention_forward(module, q_BHTD, k_BGTD, v_BGTD, mask, **given)[0]
            return exact_BTHD

        if self.layers and module.layer_idx not in self.layers:
            return exact(), None
        _check_causal(mask, q_BHTD.shape[2], layer=module.layer_idx)
        dim, heads = q_BHTD.shape[-1], q_BHTD.shape[1]
        k_BHTD, v_BHTD = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k_BGTD, v_BGTD))
        if variant.support_of(self.plugin).ties_qk:
            k_BHTD = q_BHTD
        scaled_BHTD = q_BHTD * ((given.get("scaling") or dim**-0.5) * dim**0.5)
        out_BHTD = self._mechanism(module.layer_idx, scaled_BHTD)(scaled_BHTD, k_BHTD, v_BHTD)
        out_BTHD, kept = out_BHTD.transpose(1, 2), self.exact_tokens
        return torch.cat((exact()[:, :kept], out_BTHD[:, kept:]), dim=1) if kept else out_BTHD, None

    def _mechanism(self, layer: int, q_BHTD: torch.Tensor) -> variant.Attention:
        if layer not in self.built:
            batch, heads, tokens, dim = q_BHTD.shape
            sizes = {
                "batch": batch,
                "heads": heads,
                "kv_heads": heads,
                "seq_q": tokens,
                "seq_k": tokens,
                "head_dim": dim,
            }
            case = replace(self.case, shape=replace(self.case.shape, **sizes), seed=self.case.seed + layer)
            self.built[layer] = variant.build(self.plugin, case)
        return self.built[layer]


def _check_causal(mask: torch.Tensor | None, tokens: int, *, layer: int) -> None:
    """Raise Unsupported for a mask that hides more than later tokens: a mechanism would be given other keys."""
    if mask is None:
        return
    shown = mask if mask.dtype == torch.bool else mask == 0
    if not bool((shown == torch.ones(tokens, tokens, dtype=torch.bool).tril()).all()):
        raise Unsupported(f"layer {layer} of the model has a mask that is not causal alone (a window): leave it exact")


def case_of(swap: Swap) -> Case:
    """Return the case of a language model's attention on the first tokens of a text, without a variant.

    Raises UsageError for a model that cannot be read, a text that is too short for it, and a layer that it lacks.
    """
    model, tokenizer = loading.load(loading.locate(swap.model), attention="sdpa", head=True)
    loading.tokens_of(model, tokenizer, Path(swap.text), swap.tokens, asked=_TOKENS)
    config, tokens = model.config, swap.tokens
    swap.check_layers(config.num_hidden_layers)
    heads = config.num_attention_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    shape = Shape(batch=1, heads=heads, kv_heads=heads, seq_q=tokens, seq_k=tokens, head_dim=dim)
    return Case(variant="", shape=shape, mask=Mask(causal=True), passes="")


def _swapped_score(model: Any, ids_BT: torch.Tensor, mechanisms: Mechanisms) -> Score:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(_NAME, mechanisms)
    AttentionMaskInterface.register(_NAME, sdpa_mask)  # without it every mask would be dropped
    model.set_attn_implementation(_NAME)
    return _score(model, ids_BT)


@torch.no_grad()
def _score(model: Any, ids_BT: torch.Tensor) -> Score:
    """Return a language model's score of each token but the first, given all before it."""
    logits_BTV = model(input_ids=ids_BT, use_cache=False).logits[:, :-1].float()
    targets_N = ids_BT[:, 1:].flatten()
    answers_NV = logits_BTV.flatten(0, 1)
    loss, right = cross_entropy(answers_NV, targets_N), (answers_NV.argmax(-1) == targets_N).float().mean()
    return Score(loss=float(loss), accuracy=float(right), answers=len(targets_N))
