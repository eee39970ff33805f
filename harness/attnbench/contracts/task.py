"""The contract of a task: examples that are a pure function of a seed, and the options of its model and training.

A task is a class built from its options, with a `form` and a method `examples`; `presets` and `Options` are optional,
and so is `renamed`, the former names of presets with the new ones.
"""

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, TypeAlias

import msgspec
from msgspec import Meta, Struct

from attnbench.contracts.case import Mask, Option, Shape
from attnbench.contracts.errors import UsageError, suggestion
from attnbench.contracts.metrics import BEYOND
from attnbench.contracts.variant import Options, options_type

if TYPE_CHECKING:
    import torch

Split = Literal["train", "validation", "test"]
Answer = Literal["class", "tokens", "number"]
Presets = Mapping[str, Mapping[str, Option]]
Examples: TypeAlias = "tuple[torch.Tensor, torch.Tensor] | tuple[torch.Tensor, torch.Tensor, torch.Tensor]"

# The target of a position without an answer, neither trained on nor scored: what torch's cross_entropy ignores.
IGNORE = -100

_Count = Annotated[int, Meta(ge=1)]
_Share = Annotated[float, Meta(ge=0, lt=1)]
_NonNegative = Annotated[float, Meta(ge=0)]
_SizeOrZero = Annotated[int, Meta(ge=0)]


class Form(Struct, frozen=True, kw_only=True):
    """The inputs and targets of a task's model.

    Inputs are tokens below `vocabulary` [count, length], or `features` numbers a position [count, length, features].
    Targets are, by `answer`: a class below `outputs` [count]; a token below `outputs` at each position, or IGNORE
    [count, length]; or a number [count], correct within `tolerance`.

    With a `context_length` there is a second sequence, of another modality, to which the inputs attend: tokens below
    `context_vocabulary` [count, context_length], or `context_features` numbers a position. `bits_per` marks a language
    model, whose loss is reported in bits per token or byte and whose best weights are those of the lowest loss.
    `compressed` tokens are all decoded from the state of the last position.
    """

    length: _Count
    answer: Answer
    vocabulary: _SizeOrZero = 0
    features: _SizeOrZero = 0
    outputs: _Count = 1
    causal: bool = False
    tolerance: _NonNegative = 0.04
    context_length: _SizeOrZero = 0
    context_vocabulary: _SizeOrZero = 0
    context_features: _SizeOrZero = 0
    bits_per: Literal["", "token", "byte"] = ""
    compressed: bool = False

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
        if self.compressed and self.answer != "tokens":
            raise ValueError("a task's form is compressed=true where its answers are tokens")

    @property
    def mask(self) -> Mask:
        """The mask of self-attention among the inputs; attention to a context has no mask."""
        return Mask(causal=self.causal)

    @property
    def by_loss(self) -> bool:
        """Whether the best weights are those of the lowest loss rather than of the highest accuracy."""
        return self.answer == "number" or self.bits_per != ""

    def count(self, targets: "torch.Tensor") -> int:
        """Return the number of answers that are scored."""
        return int((targets != IGNORE).sum()) if self.answer == "tokens" else len(targets)


class Training(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the model and its training, which every task has besides its own."""

    layers: Annotated[_Count, Meta(description="layers of the model")] = 2
    heads: Annotated[_Count, Meta(description="heads of a layer; must divide the width")] = 2
    width: Annotated[_Count, Meta(description="features of a position between layers (E)")] = 64
    feed_forward: Annotated[_NonNegative, Meta(description="width of the feed-forward block over E; 0: none")] = 4.0
    match: Annotated[
        Literal["none", "parameters", "state"],
        Meta(description="width at which each variant's model equals exact attention's in this; none: the same width"),
    ] = "none"
    positions: Annotated[
        Literal["none", "sinusoidal", "learned", "rotary"], Meta(description="positional encoding")
    ] = "learned"
    norm: Annotated[Literal["pre", "post"], Meta(description="layer normalisation before or after each block")] = "pre"
    tied: Annotated[bool, Meta(description="share the embedding's weights with the token outputs")] = False
    dropout: Annotated[_Share, Meta(description="on embeddings, attention outputs and feed-forward")] = 0.0
    weight_dropout: Annotated[_Share, Meta(description="on attention weights, where a variant can drop them")] = 0.0
    steps: Annotated[_Count, Meta(description="updates of the weights")] = 1000
    batch: Annotated[_Count, Meta(description="sequences per update")] = 64
    accumulate: Annotated[_Count, Meta(description="parts in which a batch is computed; must divide it")] = 1
    optimizer: Annotated[Literal["adam", "adamw"], Meta(description="Adam, or with decoupled weight decay")] = "adamw"
    learning_rate: Annotated[float, Meta(gt=0, description="peak learning rate; of a search, the middle one")] = 1e-3
    rates: Annotated[
        _Count, Meta(description="learning rates tried for each variant, half a decade apart; 1: no search")
    ] = 1
    beta2: Annotated[_Share, Meta(description="decay of Adam's mean of squared gradients")] = 0.999
    warmup: Annotated[_Share, Meta(description="share of the steps in which the learning rate rises from 0")] = 0.1
    decay: Annotated[
        Literal["cosine", "linear", "none"], Meta(description="decay of the learning rate to 0 after warm-up")
    ] = "cosine"
    weight_decay: Annotated[_NonNegative, Meta(description="of matrices; biases and norms have none")] = 0.0
    clip: Annotated[_NonNegative, Meta(description="largest norm of the gradient; 0: no clipping")] = 1.0
    validate_every: Annotated[_Count, Meta(description="steps between validations")] = 100
    patience: Annotated[
        int, Meta(ge=0, description="validations without improvement after which training stops; 0: never")
    ] = 0
    enough: Annotated[float, Meta(ge=0, description="validation accuracy at which training stops; above 1: never")] = (
        2.0
    )
    train_examples: Annotated[_Count, Meta(description="sequences to train on")] = 10_000
    validation_examples: Annotated[_Count, Meta(description="sequences that choose the best weights")] = 1000
    test_examples: Annotated[_Count, Meta(description="sequences that the score is reported on")] = 1000
    seeds: Annotated[_Count, Meta(description="trainings from different seeds")] = 1
    beyond: Annotated[
        Literal[1, 2, 4, 8],
        Meta(description="longest test beyond the training length, as a multiple of it; 1: none"),
    ] = 1

    @property
    def factors(self) -> tuple[int, ...]:
        """The multiples of the training length at which the trained model is tested too."""
        return tuple(factor for factor in BEYOND if factor <= self.beyond)

    @property
    def part(self) -> int:
        """The number of sequences computed at once."""
        return self.batch // self.accumulate


class Task(Protocol):
    """An instance of a task's class, built from its options."""

    form: Form

    def examples(self, split: Split, count: int, generator: "torch.Generator") -> Examples:
        """Return at most `count` examples of a split: (inputs, targets), or (inputs, context, targets).

        Their shapes are the form's, and they follow from the state of the generator alone.
        """
        ...


class Settings(Struct, frozen=True, kw_only=True):
    """A task's complete options, its own and the training's, and those that differ from the preset."""

    preset: str
    own: Options
    training: Training
    changed: dict[str, Option] = {}

    @property
    def flat(self) -> dict[str, Option]:
        """All options by name, as on the command line."""
        return msgspec.structs.asdict(self.own) | msgspec.structs.asdict(self.training)

    def label(self, name: str) -> str:
        """Return the task's specification for `--tasks`: its preset, then the options that differ from it."""
        options = {"preset": self.preset} | {key: _as_typed(value) for key, value in self.changed.items()}
        return f"{name}:{','.join(f'{key}={value}' for key, value in options.items())}"


def settings_of(task: Any, given: Mapping[str, object]) -> Settings:
    """Parse options, as typed text or as values, into a task's settings; its own and the training's are in one mapping.

    Raises UsageError for an unknown option or preset, naming the nearest; msgspec.ValidationError for a value of the
    wrong type or range; TypeError for a task that breaks the contract.
    """
    presets = presets_of(task)
    preset = str(given.get("preset", next(iter(presets))))
    renamed: Mapping[str, str] = getattr(task, "renamed", {})
    if preset in renamed:
        raise UsageError(
            f"preset {preset!r} is called {renamed[preset]!r} now, as it is not quite the published one; "
            f"write preset={renamed[preset]}"
        )
    if preset not in presets:
        raise UsageError(f"no preset is called {preset!r}; {suggestion(preset, presets)}")
    base = _convert(task, presets[preset])
    full = _convert(task, {**presets[preset], **{key: value for key, value in given.items() if key != "preset"}})
    changed = {key: value for key, value in full.flat.items() if value != base.flat[key]}
    return Settings(preset=preset, own=full.own, training=full.training, changed=changed)


def presets_of(task: Any) -> Presets:
    """Return a task's presets, the default first; without any, its options' defaults are the preset `tiny`.

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
    """Return a task built from its settings.

    Raises whatever its constructor raises (ValueError where options contradict one another), and TypeError where the
    result is not a task.
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
    """Return the shape with which training calls the variant: one part of a batch at the task's length.

    For a task with a context it is the shape of attention from the inputs to the context.

    Raises UsageError naming the options that contradict one another.
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
    """Divide options into the task's own and the training's, and parse both."""
    own, training = set(options_type(task).__struct_fields__), set(Training.__struct_fields__)
    for name in given:
        if name not in own | training:
            raise UsageError(f"no option is called {name!r}; {suggestion(name, own | training | {'preset'})}")
    return Settings(
        preset="",
        own=msgspec.convert({key: given[key] for key in given if key in own}, options_type(task), strict=False),
        training=msgspec.convert({key: given[key] for key in given if key in training}, Training, strict=False),
    )


def _check_names(task: Any) -> None:
    if not inspect.isclass(task):
        raise TypeError(f"a task is a class that is built from its options, not {task!r}")
    taken = {*Training.__struct_fields__, "preset"} & set(options_type(task).__struct_fields__)
    if taken:
        raise TypeError(f"{task.__qualname__}.Options has {', '.join(sorted(taken))}, which the training has already")


def _as_typed(value: Option) -> str:
    """Return a value as it is typed on the command line."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
