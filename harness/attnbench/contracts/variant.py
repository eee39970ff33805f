"""The contract of a mechanism: a callable built from a Case, what it supports, and how it refuses a case.

Only `__init__(case)` or `__init__(case, options)` and a call are required; every other part is optional, and checked
where it is present. Letters: B batch, H heads, G key/value heads, T queries, S keys, D head dimension, E width (H * D).
"""

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeAlias, TypeGuard, cast

import msgspec
from msgspec import Meta, Struct

from attnbench.contracts.case import Case, Dtype, Level, Mask, Passes

if TYPE_CHECKING:
    import torch

Served = Annotated[bool | str, Meta(description="true, or the reason why not as a sentence")]


class Unsupported(Exception):  # noqa: N818 - it is an answer, not an error
    """Raised by a mechanism for a case that it does not define or cannot run here; the row shows the reason."""


class InvalidOutput(Exception):  # noqa: N818 - it names a status
    """Raised for a result that is not an attention output: a wrong shape, dtype or device, NaN, a stale copy."""


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base class of a plugin's options: fields with a type, a default and `Annotated[..., Meta(description=...)]`."""


class Support(Struct, frozen=True, kw_only=True):
    """What a mechanism serves. A boolean field may hold the reason, a sentence, in place of false.

    `level` is what the mechanism is called with. "core": (q, k, v); at layer level it stands between the standard
    projections. "layer": tokens (x_BTE), or (x_BTE, y_BSE) for cross-attention unless it refuses that; it returns
    out_BTE and is measured at layer level only. `growth` claims that the time of its full form (or else of its causal
    form) grows as N^growth from 2048 to 16384 tokens with default options. `spans` names the options that count keys
    (a window's width, a block's size, landmarks): with these in proportion to the sequence, each query sees the same
    share of its keys at every length.

    A trained model asks for the rest. `positions`: the mechanism carries positions of its own, and the model adds none.
    `rotated_parts`: rotary positions turn so many equal parts of a head each by itself. `layer` names the option that
    is the number of the model's layer, from 1.
    """

    level: Level = "core"
    dtypes: tuple[Dtype, ...] = ("float64", "float32", "bfloat16", "float16")
    devices: tuple[str, ...] = ("cpu", "cuda", "mps")
    passes: tuple[Passes, ...] = ("forward", "backward", "forward-backward", "decode")
    full: Served = True
    causal: Served = True
    window: Served = False
    cross: Served = True
    grouped: Served = False
    exact: bool = False
    ties_qk: bool = False
    synchronises: bool = False
    growth: Annotated[float, Meta(ge=0)] | None = None
    spans: tuple[str, ...] = ()
    positions: bool = False
    rotated_parts: Annotated[int, Meta(ge=1)] = 1
    layer: str = ""


class Attention(Protocol):
    """What a variant's constructor returns: out_BHTD = attention(q_BHTD, k_BGSD, v_BGSD)."""

    def __call__(self, q: "torch.Tensor", k: "torch.Tensor", v: "torch.Tensor", /) -> "torch.Tensor":
        """Return out_BHTD, in the dtype and on the device of q_BHTD."""
        ...


State: TypeAlias = "torch.Tensor | int | float | tuple[State, ...]"


class Steps(Protocol):
    """Optional methods of a mechanism that decodes with a state: both, or neither.

    The state is a tensor, a number, or a tuple of those. A mechanism that starts from tokens has `prefill(x_BSE)` and
    `step(x_B1E, state)`.
    """

    def prefill(self, k: "torch.Tensor", v: "torch.Tensor", /) -> State:
        """Return the state after all tokens so far, given their k_BGSD and v_BGSD; S may be 0."""
        ...

    def step(
        self, q: "torch.Tensor", k: "torch.Tensor", v: "torch.Tensor", state: State, /
    ) -> "tuple[torch.Tensor, State]":
        """Decode one token: return (out_BH1D, next state), given q_BH1D, k_BG1D, v_BG1D and the state before it.

        The output is that of one query against all S + 1 keys. A step must not invalidate its input state: it may only
        write what repeating the same step would write again (the next position of a cache, never a running sum).
        """
        ...


class Projections(Protocol):
    """A layer's projections from tokens to heads: linear, without bias (Vaswani et al. 2017, section 3.2.2).

    They act on each token alone, so they commute with mixing positions: keys(M y) = M keys(y) for any M of S columns.
    """

    def queries(self, x: "torch.Tensor", /) -> "torch.Tensor":
        """Project tokens x_BTE to q_BHTD."""
        ...

    def keys(self, y: "torch.Tensor", /) -> "torch.Tensor":
        """Project tokens y_BSE to k_BGSD, with the weights of the queries where a mechanism ties the two."""
        ...

    def values(self, y: "torch.Tensor", /) -> "torch.Tensor":
        """Project tokens y_BSE to v_BGSD."""
        ...


class FromTokens(Protocol):
    """Optional method of a core mechanism that is cheaper when it may apply the projections itself.

    The layer level uses it in place of the call, except in decoding, where the keys are cached.
    """

    def from_tokens(self, x: "torch.Tensor", y: "torch.Tensor", projections: Projections, /) -> "torch.Tensor":
        """Return out_BHTD for queries of tokens x_BTE against keys of tokens y_BSE (in self-attention x itself).

        The output and its gradients equal those of the call on queries(x), keys(y) and values(y), within rounding.
        """
        ...


class Shares(Protocol):
    """Optional method of a mechanism whose weights the layers of a model may share."""

    def share(self, first: Any, /) -> None:
        """Adopt the shared weights of the first layer's mechanism; called before training."""
        ...


class DropsWeights(Protocol):
    """Optional attribute of a mechanism that can drop attention weights in training: the share that is dropped.

    A call drops that share of the weights at random, by torch's global generator, and scales the others by
    1 / (1 - share). It is 0.0 at first; the trained model sets it for training, and back to 0.0 for evaluation.
    """

    weight_dropout: float


class Redraws(Protocol):
    """Optional method of a mechanism with random parts that change while a model is trained."""

    def redraw(self, seed: int | None, /) -> None:
        """Draw the random parts anew from a seed, for the next call of a training; None: as they are without training.

        The trained model calls it before each call, with a seed of torch's global generator, and with None in
        evaluation. Nothing else does, so that all other measurements are of the case's own seed.
        """
        ...


_PLAIN_FUNCTION = Support(
    causal="a plain function f(q, k, v) is not told the mask; write a class, whose constructor is given the case",
    window="a plain function f(q, k, v) is not told the window; write a class, whose constructor is given the case",
)


def support_of(variant: Any) -> Support:
    """Return what a variant declares to support; without a declaration, only its constructor refuses cases."""
    declared = getattr(variant, "supports", None)
    if declared is None:
        return Support(window=True, grouped=True) if inspect.isclass(variant) else _PLAIN_FUNCTION
    if not isinstance(declared, Support):
        raise TypeError(f"{name_of(variant)}.supports is {declared!r}; write supports = attnbench.Support(...)")
    named = {"spans": declared.spans, "layer": (declared.layer,) if declared.layer else ()}
    for field, name in ((field, name) for field, names in named.items() for name in names):
        if name not in options_type(variant).__struct_fields__:
            raise TypeError(f"{name_of(variant)}.supports: {field} names {name!r}, which is no option")
    return declared


def options_type(variant: Any) -> type[Options]:
    """Return the type of a variant's (or task's) options: its class `Options`, or one without fields."""
    declared = getattr(variant, "Options", Options)
    if not (inspect.isclass(declared) and issubclass(declared, Options)):
        raise TypeError(f"{name_of(variant)}.Options must be a class derived from attnbench.Options")
    return declared


def complete_options(variant: Any, given: Mapping[str, object]) -> Options:
    """Parse options, as typed text or as values, into the variant's own struct with defaults filled in.

    Raises msgspec.ValidationError naming the field.
    """
    return msgspec.convert(dict(given), options_type(variant), strict=False)


def check_support(support: Support, case: Case) -> None:
    """Raise Unsupported with the reason where a declaration rules a case out."""
    shape, mask = case.shape, case.mask
    if shape.heads % shape.kv_heads:
        raise Unsupported(f"{shape.kv_heads} kv heads cannot be shared evenly by {shape.heads} heads")
    if (mask.causal or mask.window is not None) and shape.seq_q > shape.seq_k:
        raise Unsupported("with more queries than keys a causal or windowed mask leaves queries without a key")
    if support.level == "layer" and case.level == "core":
        raise Unsupported("it starts from tokens, not from queries, keys and values: measure it with --level layer")
    device = case.device.partition(":")[0]
    _check_member(device, support.devices, "device")
    _check_member(case.dtype, support.dtypes, "dtype")
    if case.passes:
        _check_member(case.passes, support.passes, "pass")
    # A decoded token is the last one, so a causal form serves a full mask: all other tokens are before it.
    _check_mask(support, Mask(causal=True) if case.passes == "decode" and _causal_suffices(support, mask) else mask)
    # At layer level a decoded token is one of the sequence; at core level it is a query against more keys.
    if shape.seq_q != shape.seq_k and not (support.level == "layer" and case.passes == "decode"):
        _check_served(support.cross, "it needs as many queries as keys")
    if shape.kv_heads != shape.heads:
        _check_served(support.grouped, "it has no grouped heads: kv heads must equal heads")
    if support.ties_qk and (shape.seq_q, shape.heads) != (shape.seq_k, shape.kv_heads):
        raise Unsupported("its queries are its keys too, so there must be as many of both, in as many heads")


def check_cross(support: Support) -> None:
    """Raise Unsupported for a mechanism that cannot attend to a second sequence, whatever its length."""
    _check_served(support.cross, "it needs as many queries as keys")
    if support.ties_qk:
        raise Unsupported("its queries are its keys too, so it cannot attend to another sequence")


def _check_mask(support: Support, mask: Mask) -> None:
    if mask.causal:
        _check_served(support.causal, "it has no causal form")
    elif mask.window is None:
        _check_served(support.full, "it has no full (non-causal) form")
    if mask.window is not None:
        _check_served(support.window, "it has no window")


def _causal_suffices(support: Support, mask: Mask) -> bool:
    return mask == Mask() and support.full is not True and support.causal is True


def build(variant: Any, case: Case) -> Attention:
    """Return a variant built for a case; a module is moved to the case's device and dtype.

    Raises Unsupported with the reason where the declaration or the constructor refuses the case.
    """
    import torch

    check_support(support_of(variant), case)
    if not inspect.isclass(variant):
        return cast("Attention", variant)
    options = complete_options(variant, case.options)
    construct: Callable[..., object] = variant
    built = construct(case, options) if hasattr(variant, "Options") else construct(case)
    if not callable(built):
        raise TypeError(f"{name_of(variant)} builds {built!r}, which cannot be called with (q, k, v)")
    if isinstance(built, torch.nn.Module):
        built.to(device=case.device, dtype=getattr(torch, case.dtype))
    return cast("Attention", built)


def has_steps(attention: object) -> TypeGuard[Steps]:
    """Return whether a mechanism decodes with a state. Raises TypeError if it has only one of `prefill` and `step`."""
    methods = [name for name in ("prefill", "step") if callable(getattr(attention, name, None))]
    if len(methods) == 1:
        raise TypeError(
            f"{type(attention).__name__} has {methods[0]} alone; decoding with a state takes prefill and step"
        )
    return bool(methods)


def has_from_tokens(attention: object) -> TypeGuard[FromTokens]:
    """Return whether a mechanism has the optional method `from_tokens`."""
    return callable(getattr(attention, "from_tokens", None))


def has_share(attention: object) -> TypeGuard[Shares]:
    """Return whether a mechanism can share weights between layers."""
    return callable(getattr(attention, "share", None))


def drops_weights(attention: object) -> TypeGuard[DropsWeights]:
    """Return whether a mechanism can drop attention weights in training."""
    return isinstance(getattr(attention, "weight_dropout", None), float)


def has_redraw(attention: object) -> TypeGuard[Redraws]:
    """Return whether a mechanism has random parts that change while a model is trained."""
    return callable(getattr(attention, "redraw", None))


def backend_of(attention: Attention) -> str:
    """Return the name of the kernel that ran, by the variant's attribute `backend`; empty where it has none."""
    return str(getattr(attention, "backend", ""))


def name_of(variant: Callable[..., Any]) -> str:
    """Return a variant's name in its source, for messages."""
    return str(getattr(variant, "__qualname__", variant))


def _check_member(value: str, served: tuple[str, ...], axis: str) -> None:
    if value not in served:
        raise Unsupported(f"{axis} {value} is not served (only {', '.join(served)})")


def _check_served(served: bool | str, reason: str) -> None:
    if served is not True:
        raise Unsupported(served or reason)
