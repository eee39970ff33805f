"""The contract of a task: examples that are a pure function of a seed, and the model and training that they ask for.

A task is a class built from its options, with a `form` and a method `examples`; `presets` and `Options` are optional.
"""

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, TypeAlias

import msgspec
from msgspec import Meta, Struct

from attnbench.contracts.case import Mask, Option, Shape
from attnbench.contracts.errors import UsageError, suggestion
from attnbench.contracts.variant import Options, options_type

if TYPE_CHECKING:
    import torch

Split = Literal["train", "validation", "test"]
Answer = Literal["class", "tokens", "number"]
Presets = Mapping[str, Mapping[str, Option]]
Drawn: TypeAlias = "tuple[torch.Tensor, torch.Tensor] | tuple[torch.Tensor, torch.Tensor, torch.Tensor]"

# A target that is neither trained on nor counted: positions of a sequence at which nothing is asked.
IGNORE = -100

_Count = Annotated[int, Meta(ge=1)]
_Share = Annotated[float, Meta(ge=0, lt=1)]
_Zero = Annotated[float, Meta(ge=0)]
_Size = Annotated[int, Meta(ge=0)]


class Form(Struct, frozen=True, kw_only=True):
    """What goes into the model and what comes out of it.

    Inputs are tokens below `vocabulary` [count, length], or `features` numbers a position [count, length, features].
    Targets are a class below `outputs` [count], a token below `outputs` at each position, IGNORE where nothing is
    asked [count, length], or a number [count], which counts as right within `tolerance`.

    With a `context_length` there is a second sequence, of another modality, to which the inputs attend: tokens below
    `context_vocabulary` [count, context_length], or `context_features` numbers a position. `bits_per` names what a
    token is, where the loss is to be told in bits a token or byte: a language model, whose best weights have the
    lowest loss.
    """

    length: _Count
    answer: Answer
    vocabulary: _Size = 0
    features: _Size = 0
    outputs: _Count = 1
    causal: bool = False
    tolerance: _Zero = 0.04
    context_length: _Size = 0
    context_vocabulary: _Size = 0
    context_features: _Size = 0
    bits_per: Literal["", "token", "byte"] = ""

    def __post_init__(self) -> None:
        if (self.vocabulary > 0) == (self.features > 0):
            raise ValueError("a task's form has tokens (vocabulary=) or numbers (features=) as inputs, one of the two")
        if (self.answer == "number") != (self.outputs == 1):
            raise ValueError("a task's form has at least 2 classes or tokens as outputs (outputs=), or a single number")
        kinds = (self.context_vocabulary > 0) + (self.context_features > 0)
        if kinds != (self.context_length > 0):
            raise ValueError(
                "a task's form has a context of tokens (context_vocabulary=) or numbers (context_features=) with its "
                "context_length, or none of the three"
            )
        if self.bits_per and self.answer != "tokens":
            raise ValueError(f"a task's form counts bits per {self.bits_per} (bits_per=) where its answers are tokens")

    @property
    def mask(self) -> Mask:
        """The mask of the attention among the inputs; a context is seen whole."""
        return Mask(causal=self.causal)

    @property
    def by_loss(self) -> bool:
        """Whether the best weights are those of the lowest loss, and not those of the most right answers."""
        return self.answer == "number" or self.bits_per != ""

    def count(self, targets: "torch.Tensor") -> int:
        """Count the answers that targets ask for."""
        return int((targets != IGNORE).sum()) if self.answer == "tokens" else len(targets)


class Training(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The trained model and its training: options that every task has beside its own."""

    layers: Annotated[_Count, Meta(description="layers of the model")] = 2
    heads: Annotated[_Count, Meta(description="heads of a layer; they divide the width")] = 2
    width: Annotated[_Count, Meta(description="features of a position between layers (E)")] = 64
    feed_forward: Annotated[_Zero, Meta(description="width of the feed-forward block over E; 0 leaves it out")] = 4.0
    positions: Annotated[
        Literal["none", "sinusoidal", "learned", "rotary"], Meta(description="how the model knows the order")
    ] = "learned"
    norm: Annotated[Literal["pre", "post"], Meta(description="layer normalisation before or after each block")] = "pre"
    tied: Annotated[bool, Meta(description="token outputs share the weights of the embedding")] = False
    dropout: Annotated[_Share, Meta(description="on embeddings, attention outputs and feed-forward")] = 0.0
    weight_dropout: Annotated[_Share, Meta(description="on attention weights, where a variant can drop them")] = 0.0
    steps: Annotated[_Count, Meta(description="updates of the weights")] = 1000
    batch: Annotated[_Count, Meta(description="sequences an update")] = 64
    accumulate: Annotated[_Count, Meta(description="parts in which a batch is computed; they divide it")] = 1
    optimizer: Annotated[Literal["adam", "adamw"], Meta(description="Adam, or with decoupled weight decay")] = "adamw"
    learning_rate: Annotated[float, Meta(gt=0, description="the highest rate, or the middle of those searched")] = 1e-3
    rates: Annotated[
        _Count, Meta(description="rates tried for each variant, half a decade apart; 1: the one above")
    ] = 1
    beta2: Annotated[_Share, Meta(description="decay of Adam's mean of squares")] = 0.999
    warmup: Annotated[_Share, Meta(description="share of the steps in which the rate rises from 0")] = 0.1
    decay: Annotated[Literal["cosine", "linear", "none"], Meta(description="how the rate falls to 0 after that")] = (
        "cosine"
    )
    weight_decay: Annotated[_Zero, Meta(description="pull of matrices towards 0; not of biases and norms")] = 0.0
    clip: Annotated[_Zero, Meta(description="largest norm of the gradient; 0 does not clip")] = 1.0
    validate_every: Annotated[_Count, Meta(description="steps between validations")] = 100
    patience: Annotated[
        int, Meta(ge=0, description="validations without a better one after which training stops; 0 never stops")
    ] = 0
    enough: Annotated[float, Meta(ge=0, description="validation accuracy at which training stops; above 1: never")] = (
        2.0
    )
    train_examples: Annotated[_Count, Meta(description="sequences to learn from")] = 10_000
    validation_examples: Annotated[_Count, Meta(description="sequences that choose the best weights")] = 1000
    test_examples: Annotated[_Count, Meta(description="sequences that are reported")] = 1000
    seeds: Annotated[_Count, Meta(description="trainings from different seeds")] = 1

    @property
    def part(self) -> int:
        """The sequences that are computed at once."""
        return self.batch // self.accumulate


class Task(Protocol):
    """What a task's class gives when built from its options."""

    form: Form

    def examples(self, split: Split, count: int, generator: "torch.Generator") -> Drawn:
        """Give at most `count` examples of a split: the same ones for a generator in the same state.

        They are (inputs, targets), or (inputs, context, targets) where the form has a context.
        """
        ...


class Settings(Struct, frozen=True, kw_only=True):
    """A task's complete options: its own and the training's, and which of them differ from the preset."""

    preset: str
    own: Options
    training: Training
    changed: dict[str, Option] = {}

    @property
    def flat(self) -> dict[str, Option]:
        """All options as one set, as the command line knows them."""
        return msgspec.structs.asdict(self.own) | msgspec.structs.asdict(self.training)

    def label(self, name: str) -> str:
        """Write the task as a person would ask for it again: its preset, then what differs from it."""
        options = {"preset": self.preset} | {key: _typed(value) for key, value in self.changed.items()}
        return f"{name}:{','.join(f'{key}={value}' for key, value in options.items())}"


def settings_of(task: Any, given: Mapping[str, object]) -> Settings:
    """Turn options as typed (text, or values; own and training's in one set) into a task's settings.

    Raises UsageError for an option that there is not, naming the nearest; msgspec.ValidationError for a value that does
    not fit; TypeError for a task that breaks the contract.
    """
    presets = presets_of(task)
    preset = str(given.get("preset", next(iter(presets))))
    if preset not in presets:
        raise UsageError(f"no preset is called {preset!r}; {suggestion(preset, presets)}")
    base = _convert(task, presets[preset])
    full = _convert(task, {**presets[preset], **{key: value for key, value in given.items() if key != "preset"}})
    changed = {key: value for key, value in full.flat.items() if value != base.flat[key]}
    return Settings(preset=preset, own=full.own, training=full.training, changed=changed)


def presets_of(task: Any) -> Presets:
    """Read a task's presets, the default one first; a task without any has its fields' defaults as `tiny`.

    Raises TypeError for a preset that does not fit the task's options, and for a task that breaks the contract.
    """
    _check_names(task)
    presets: Presets = getattr(task, "presets", {"tiny": {}})
    if not presets:
        raise TypeError(f"{task.__qualname__}.presets is empty; leave it out for a preset of the options' defaults")
    for name, options in presets.items():
        try:
            _convert(task, options)
        except (UsageError, msgspec.ValidationError) as error:
            raise TypeError(f"preset {name!r}: {error}") from error
    return presets


def build_task(task: Any, settings: Settings) -> Task:
    """Construct a task from its settings.

    Raises whatever its constructor raises (ValueError where options do not fit one another), and TypeError where what
    it builds is no task.
    """
    built = task(settings.own)
    if not isinstance(getattr(built, "form", None), Form) or not callable(getattr(built, "examples", None)):
        raise TypeError(f"{task.__qualname__} must set self.form = attnbench.Form(...) and define examples()")
    try:
        msgspec.convert(msgspec.to_builtins(built.form), Form)  # a struct checks nothing when it is constructed
    except msgspec.ValidationError as error:
        raise TypeError(f"{task.__qualname__}.form: {error}") from error
    return built  # type: ignore[no-any-return]


def shape_of(form: Form, training: Training) -> Shape:
    """Give the shape in which the variant is called while training: one part of a batch at the task's length.

    Of a task with a context it is that of the attention to it: the inputs ask, the context is what they see.

    Raises UsageError naming the option that does not divide another.
    """
    heads, width = training.heads, training.width
    if width % heads:
        raise UsageError(f"heads={heads} does not divide width={width}; the model's width is shared by its heads")
    if training.batch % training.accumulate:
        raise UsageError(f"accumulate={training.accumulate} does not divide batch={training.batch}")
    if training.tied and form.vocabulary != form.outputs:
        raise UsageError("tied=true: only a task whose outputs are the tokens of its inputs can share their weights")
    if training.positions == "rotary" and width // heads % 2:
        raise UsageError(f"positions=rotary turns pairs of features; width={width} over heads={heads} is odd")
    keys = form.context_length or form.length
    return Shape(
        batch=training.part, heads=heads, kv_heads=heads, seq_q=form.length, seq_k=keys, head_dim=width // heads
    )


def _convert(task: Any, given: Mapping[str, object]) -> Settings:
    """Share options out between the task's own and the training's."""
    own, shared = set(options_type(task).__struct_fields__), set(Training.__struct_fields__)
    for name in given:
        if name not in own | shared:
            raise UsageError(f"no option is called {name!r}; {suggestion(name, own | shared | {'preset'})}")
    return Settings(
        preset="",
        own=msgspec.convert({key: given[key] for key in given if key in own}, options_type(task), strict=False),
        training=msgspec.convert({key: given[key] for key in given if key in shared}, Training, strict=False),
    )


def _check_names(task: Any) -> None:
    if not inspect.isclass(task):
        raise TypeError(f"a task is a class that is built from its options, not {task!r}")
    taken = {*Training.__struct_fields__, "preset"} & set(options_type(task).__struct_fields__)
    if taken:
        raise TypeError(f"{task.__qualname__}.Options has {', '.join(sorted(taken))}, which the training has already")


def _typed(value: Option) -> str:
    """Write a value as it is typed on the command line."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
