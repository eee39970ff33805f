"""The model in which every variant is trained: a standard layer stack of which only the mechanism changes."""

# B batch, T positions, S positions of the context, E width, H heads, D head dimension, F input features, N answers,
# C outputs
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from attnbench.contracts.task import IGNORE, Form, Training
from attnbench.contracts.variant import Attention, InvalidOutput, drops_weights, has_redraw
from attnbench.train.decoder import Decoder
from attnbench.train.positions import Learned, Rotary, Sinusoidal


class MultiHead(nn.Module):
    """Project to heads, attend by the variant, join the heads and project back (Vaswani et al. 2017, section 3.2.2).

    With `tied`, keys are the queries, for a variant that hashes both alike (Kitaev et al. 2020, section 2).
    """

    def __init__(self, mechanism: Attention, rotary: Rotary | None, training: Training, *, tied: bool) -> None:
        super().__init__()
        self.mechanism, self.rotary, self.heads, self.tied = mechanism, rotary, training.heads, tied
        self.weight_dropout = training.weight_dropout
        self.split = _linear(training.width, training.width * (2 if tied else 3))
        self.join = _linear(training.width, training.width)

    def forward(self, x_BTE: Tensor) -> Tensor:
        """Return the attention of the positions of x to one another, [B, T, E]."""
        *qk_BHTD, v_BHTD = _heads(self.split(x_BTE), self.heads, x_BTE.shape[-1])
        rotated_BHTD = [_rotated(self.rotary, x_BHTD) for x_BHTD in qk_BHTD]
        _prepare(self.mechanism, weight_dropout=self.weight_dropout, training=self.training)
        return cast("Tensor", self.join(_attended(self.mechanism, rotated_BHTD[0], rotated_BHTD[-1], v_BHTD)))


class Cross(nn.Module):
    """Attend by the variant to a second sequence: queries of the inputs, keys and values of the context.

    Rotary positions rotate keys alone: positions of two sequences have no distance, but the context has an order.
    """

    def __init__(self, mechanism: Attention, rotary: Rotary | None, training: Training) -> None:
        super().__init__()
        self.mechanism, self.rotary, self.heads = mechanism, rotary, training.heads
        self.weight_dropout = training.weight_dropout
        self.ask = _linear(training.width, training.width)
        self.split = _linear(training.width, training.width * 2)
        self.join = _linear(training.width, training.width)

    def forward(self, x_BTE: Tensor, y_BSE: Tensor) -> Tensor:
        """Return the attention of the positions of x to those of y, [B, T, E]."""
        (q_BHTD,) = _heads(self.ask(x_BTE), self.heads, x_BTE.shape[-1])
        k_BHSD, v_BHSD = _heads(self.split(y_BSE), self.heads, x_BTE.shape[-1])
        _prepare(self.mechanism, weight_dropout=self.weight_dropout, training=self.training)
        return cast("Tensor", self.join(_attended(self.mechanism, q_BHTD, _rotated(self.rotary, k_BHSD), v_BHSD)))


class Residual(nn.Module):
    """Add a block's output to its input, with normalisation before the block (Xiong et al. 2020) or after the sum."""

    def __init__(self, block: nn.Module, training: Training) -> None:
        super().__init__()
        self.block, self.before = block, training.norm == "pre"
        self.norm = nn.LayerNorm(training.width)
        self.dropout = nn.Dropout(training.dropout)

    def forward(self, x_BTE: Tensor, *context: Tensor) -> Tensor:
        """Return x with the block's output added."""
        if self.before:
            return cast("Tensor", x_BTE + self.dropout(self.block(self.norm(x_BTE), *context)))
        return cast("Tensor", self.norm(x_BTE + self.dropout(self.block(x_BTE, *context))))


class Context(nn.Module):
    """Embed the second sequence, with positions of its own, and normalise it for its keys and values."""

    def __init__(self, form: Form, training: Training) -> None:
        super().__init__()
        self.embed = _embedding(form.context_vocabulary, form.context_features, training.width)
        self.positions = _positions(form.context_length, training)
        self.dropout = nn.Dropout(training.dropout)
        self.norm = nn.LayerNorm(training.width)

    def forward(self, context: Tensor) -> Tensor:
        """Return y_BSE of a context [B, S] or [B, S, F]."""
        return cast("Tensor", self.norm(self.dropout(self.positions(self.embed(context)))))


class Model(nn.Module):
    """Embedding, positions, layers of attention and feed-forward, and a head for the task's kind of answer.

    Each layer attends by a mechanism of its own. Where the form has a context, it also attends to that by one of
    `crossing`, between self-attention and feed-forward (Vaswani et al. 2017, section 3.1).
    """

    def __init__(
        self,
        form: Form,
        training: Training,
        mechanisms: Sequence[Attention],
        *,
        crossing: Sequence[Attention] = (),
        ties_qk: bool,
        rotated_parts: int = 1,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.form, self.dtype = form, dtype
        width = training.width
        self.embed = _embedding(form.vocabulary, form.features, width)
        self.positions = _positions(form.length, training)
        self.dropout = nn.Dropout(training.dropout)
        self.context = Context(form, training) if form.context_length else None
        lengths = (form.length, form.context_length)
        rotary, rotary_context = (_rotary(length, training, parts=rotated_parts) for length in lengths)
        blocks: list[nn.Module] = []
        for layer, mechanism in enumerate(mechanisms):
            blocks.append(MultiHead(mechanism, rotary, training, tied=ties_qk))
            if self.context is not None:
                blocks.append(Cross(crossing[layer], rotary_context, training))
            if training.feed_forward:
                blocks.append(_feed_forward(training))
        self.mechanisms = mechanisms
        self.blocks = nn.ModuleList(Residual(block, training) for block in blocks)
        self.norm = nn.LayerNorm(width) if training.norm == "pre" else nn.Identity()
        self.head = _linear(width, form.outputs, bias=not training.tied)
        self.decoder = Decoder(form.length, width) if form.compressed else None
        if training.tied and isinstance(self.embed, nn.Embedding):
            self.head.weight = self.embed.weight

    @property
    def size(self) -> int:
        """The number of parameters."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the states x_BTE of inputs [B, T] or [B, T, F], and of the context [B, S] or [B, S, F] if any."""
        # Mixed precision (Micikevicius et al. 2018): weights stay in float32, products are in the case's dtype.
        with torch.autocast(inputs.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            x_BTE = self.dropout(self.positions(self.embed(inputs)))
            y_BSE = () if self.context is None else (self.context(context),)
            for residual in self.blocks:
                x_BTE = residual(x_BTE, *(y_BSE if isinstance(residual.block, Cross) else ()))
            x_BTE = self.norm(x_BTE)
        return cast("Tensor", x_BTE.float())

    def answers(self, x_BTE: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the answers, [N, C], or [N] for numbers, and their targets [N].

        Tokens are answered where the target is not IGNORE. A class or number is read from the mean of all positions, or
        in a causal model from the last, the only one that sees all others; so are tokens that a form has compressed.
        """
        if self.decoder is not None:
            x_BTE = self.decoder(x_BTE[:, -1])
        if self.form.answer == "tokens":
            scored_BT = targets != IGNORE
            return self.head(x_BTE[scored_BT]), targets[scored_BT]
        answers_NC = self.head(x_BTE[:, -1] if self.form.causal else x_BTE.mean(dim=1))
        return answers_NC.squeeze(-1) if self.form.answer == "number" else answers_NC, targets


def _heads(x_BTN: Tensor, heads: int, width: int) -> tuple[Tensor, ...]:
    """Split joined projections into tensors of heads, [B, H, T, D] each."""
    return tuple(x_BTN.unflatten(-1, (-1, heads, width // heads)).permute(2, 0, 3, 1, 4))


def _rotated(rotary: Rotary | None, q_BHTD: Tensor) -> Tensor:
    return q_BHTD if rotary is None else cast("Tensor", rotary(q_BHTD))


def _prepare(mechanism: Attention, *, weight_dropout: float, training: bool) -> None:
    """In training, let a mechanism drop weights and draw its random parts anew, by torch's generator; else neither.

    Checkpoints hold the state of that generator.
    """
    if drops_weights(mechanism):
        mechanism.weight_dropout = weight_dropout if training else 0.0
    if has_redraw(mechanism):
        mechanism.redraw(int(torch.randint(2**31, ())) if training else None)


def _attended(mechanism: Attention, q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor) -> Tensor:
    """Call the variant, check its output, and join the heads: [B, T, E]. Raises InvalidOutput."""
    out_BHTD = mechanism(q_BHTD, k_BHSD, v_BHSD)
    if not isinstance(out_BHTD, Tensor):
        raise InvalidOutput(f"the output is a {type(out_BHTD).__name__}, not a tensor")
    if (out_BHTD.shape, out_BHTD.dtype) != (q_BHTD.shape, q_BHTD.dtype):
        actual, expected = (f"{x_BHTD.dtype} {list(x_BHTD.shape)}" for x_BHTD in (out_BHTD, q_BHTD))
        raise InvalidOutput(f"the output is {actual} where {expected} is due")
    return out_BHTD.transpose(1, 2).flatten(2)


def _embedding(vocabulary: int, features: int, width: int) -> nn.Module:
    """Return a projection of numbers, or an embedding of tokens whose vectors have a mean square norm of 1."""
    if not vocabulary:
        return _linear(features, width)
    embedding = nn.Embedding(vocabulary, width)
    nn.init.normal_(embedding.weight, std=width**-0.5)
    return embedding


def _positions(length: int, training: Training) -> nn.Module:
    match training.positions:
        case "sinusoidal":
            return Sinusoidal(length, training.width)
        case "learned":
            return Learned(length, training.width)
        case _:
            return nn.Identity()


def _rotary(length: int, training: Training, *, parts: int) -> Rotary | None:
    head_dim = training.width // training.heads
    return Rotary(length, head_dim, parts=parts) if training.positions == "rotary" else None


def _feed_forward(training: Training) -> nn.Module:
    inner = round(training.width * training.feed_forward)
    parts = (_linear(training.width, inner), nn.GELU(), nn.Dropout(training.dropout))
    return nn.Sequential(*parts, _linear(inner, training.width))


def _linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """Return a projection that keeps the scale of its inputs: weights of variance 1 / inputs (LeCun et al. 1998)."""
    linear = nn.Linear(inputs, outputs, bias=bias)
    nn.init.normal_(linear.weight, std=inputs**-0.5)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear
