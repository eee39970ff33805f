"""The model that every variant is trained in: a standard layer stack in which the variant is all that changes."""

# B batch, T positions, E width, H heads, D head dimension, F features or tokens put in, N answers, C outputs
from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from attnbench.task import IGNORE, Form, Training
from attnbench.train.positions import Learned, Rotary, Sinusoidal
from attnbench.variant import Attention, InvalidOutput


class MultiHead(nn.Module):
    """Project to heads, attend by the variant, join the heads and project back (Vaswani et al. 2017, section 3.2.2).

    With `tied`, keys are the queries, as a variant that hashes both alike wants them (Kitaev et al. 2020, section 2).
    """

    def __init__(self, mechanism: Attention, rotary: Rotary | None, training: Training, *, tied: bool) -> None:
        super().__init__()
        self.mechanism, self.rotary, self.heads, self.tied = mechanism, rotary, training.heads, tied
        self.split = nn.Linear(training.width, training.width * (2 if tied else 3))
        self.join = nn.Linear(training.width, training.width)

    def forward(self, x_BTE: Tensor) -> Tensor:
        """Let the positions of x attend to one another."""
        heads = self.split(x_BTE).unflatten(-1, (-1, self.heads, x_BTE.shape[-1] // self.heads))
        q_BHTD, *k_BHTD, v_BHTD = heads.permute(2, 0, 3, 1, 4)
        q_BHTD = self._turned(q_BHTD)
        out_BHTD = self.mechanism(q_BHTD, self._turned(k_BHTD[0]) if k_BHTD else q_BHTD, v_BHTD)
        if not isinstance(out_BHTD, Tensor):
            raise InvalidOutput(f"the output is a {type(out_BHTD).__name__}, not a tensor")
        if (out_BHTD.shape, out_BHTD.dtype) != (q_BHTD.shape, q_BHTD.dtype):
            given, due = (f"{each.dtype} {list(each.shape)}" for each in (out_BHTD, q_BHTD))
            raise InvalidOutput(f"the output is {given} where {due} is due")
        return cast("Tensor", self.join(out_BHTD.transpose(1, 2).flatten(2)))

    def _turned(self, q_BHTD: Tensor) -> Tensor:
        return self.rotary(q_BHTD) if self.rotary is not None else q_BHTD


class Residual(nn.Module):
    """Add a block's output to its input, normalised before the block (Xiong et al. 2020) or after the sum."""

    def __init__(self, block: nn.Module, training: Training) -> None:
        super().__init__()
        self.block, self.before = block, training.norm == "pre"
        self.norm = nn.LayerNorm(training.width)
        self.dropout = nn.Dropout(training.dropout)

    def forward(self, x_BTE: Tensor) -> Tensor:
        """Give x with the block's output added."""
        if self.before:
            return cast("Tensor", x_BTE + self.dropout(self.block(self.norm(x_BTE))))
        return cast("Tensor", self.norm(x_BTE + self.dropout(self.block(x_BTE))))


class Model(nn.Module):
    """Embedding, positions, layers of attention and feed-forward, and a head for the task's kind of answer."""

    def __init__(self, form: Form, training: Training, mechanisms: Sequence[Attention], *, ties_qk: bool) -> None:
        super().__init__()
        self.form = form
        width = training.width
        self.embed = _embedding(form, width)
        self.positions = _positions(form, training)
        self.dropout = nn.Dropout(training.dropout)
        rotary = Rotary(form.length, width // training.heads) if training.positions == "rotary" else None
        blocks: list[nn.Module] = []
        for mechanism in mechanisms:
            blocks.append(MultiHead(mechanism, rotary, training, tied=ties_qk))
            if training.feed_forward:
                blocks.append(_feed_forward(training))
        self.mechanisms = mechanisms
        self.blocks = nn.Sequential(*(Residual(block, training) for block in blocks))
        self.norm = nn.LayerNorm(width) if training.norm == "pre" else nn.Identity()
        self.head = nn.Linear(width, form.outputs, bias=not training.tied)
        if training.tied and isinstance(self.embed, nn.Embedding):  # tokens are read out by the table that put them in
            self.head.weight = self.embed.weight

    def forward(self, inputs: Tensor) -> Tensor:
        """Turn inputs [B, T] or [B, T, F] into states x_BTE."""
        return cast("Tensor", self.norm(self.blocks(self.dropout(self.positions(self.embed(inputs))))))

    def answers(self, x_BTE: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Read the answers off the states, with the targets that they are held against: [N, C] and [N], or [N] both.

        Tokens are read where one is asked for; a class or number from the mean of all positions, or, where no position
        but the last sees everything, from the last.
        """
        if self.form.answer == "tokens":
            asked_BT = targets != IGNORE
            return self.head(x_BTE[asked_BT]), targets[asked_BT]
        answers_NC = self.head(x_BTE[:, -1] if self.form.causal else x_BTE.mean(dim=1))
        return answers_NC.squeeze(-1) if self.form.answer == "number" else answers_NC, targets


def _embedding(form: Form, width: int) -> nn.Module:
    """Embed tokens by a table, numbers by a projection; the rows of a table have length one on average."""
    if not form.vocabulary:
        return nn.Linear(form.features, width)
    table = nn.Embedding(form.vocabulary, width)
    nn.init.normal_(table.weight, std=width**-0.5)
    return table


def _positions(form: Form, training: Training) -> nn.Module:
    match training.positions:
        case "sinusoidal":
            return Sinusoidal(form.length, training.width)
        case "learned":
            return Learned(form.length, training.width)
        case _:
            return nn.Identity()


def _feed_forward(training: Training) -> nn.Module:
    inner = round(training.width * training.feed_forward)
    parts = (nn.Linear(training.width, inner), nn.GELU(), nn.Dropout(training.dropout))
    return nn.Sequential(*parts, nn.Linear(inner, training.width))
