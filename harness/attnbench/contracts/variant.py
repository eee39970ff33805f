"""The contract of a mechanism: a callable built from a Case, what it says it supports, and how it refuses.

Only `__init__(case)` or `__init__(case, options)` and a call are needed; every other part is optional and checked
where it is given. Letters: B batch, H heads, G key/value heads, T queries, S keys, D head dimension, E width (H * D).
"""

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeAlias, TypeGuard, cast

import msgspec
from msgspec import Meta, Struct

from attnbench.contracts.case import Case, Dtype, Level, Mask, Passes

if TYPE_CHECKING:
    import torch

Yes = Annotated[bool | str, Meta(description="true, or the reason why not as a sentence")]


class Unsupported(Exception):  # noqa: N818 - it is an answer, not an error
    """A mechanism's answer to a case that it does not define or cannot run here; the reason is shown in the row."""


class InvalidOutput(Exception):  # noqa: N818 - it names a status
    """A mechanism returned something that is no attention output: a wrong shape, dtype or device, NaN, a stale copy."""


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of a plugin's options: typed fields with defaults; meanings in `Annotated[..., Meta(description=...)]`."""


class Support(Struct, frozen=True, kw_only=True):
    """What a mechanism serves. A yes/no field may hold, instead of false, the reason in words.

    `level` is where it starts: core mechanisms are called with (q, k, v), and at layer level between the standard
    projections; one that starts from tokens says "layer", is called with (x_BTE), or (x_BTE, y_BSE) for cross-attention
    unless it refuses that, gives out_BTE, and is measured at layer level only. `growth` is its claim: from
    2048 to 16384 tokens the time of its full form, or else of its causal one, grows as N^growth with default options.
    """

    level: Level = "core"
    dtypes: tuple[Dtype, ...] = ("float64", "float32", "bfloat16", "float16")
    devices: tuple[str, ...] = ("cpu", "cuda", "mps")
    passes: tuple[Passes, ...] = ("forward", "backward", "forward-backward", "decode")
    full: Yes = True
    causal: Yes = True
    window: Yes = False
    cross: Yes = True
    grouped: Yes = False
    exact: bool = False
    ties_qk: bool = False
    synchronises: bool = False
    growth: Annotated[float, Meta(ge=0)] | None = None


class Attention(Protocol):
    """What a variant's constructor gives: out_BHTD = attention(q_BHTD, k_BGSD, v_BGSD)."""

    def __call__(self, q: "torch.Tensor", k: "torch.Tensor", v: "torch.Tensor", /) -> "torch.Tensor":
        """Attend."""
        ...


State: TypeAlias = "torch.Tensor | int | float | tuple[State, ...]"


class Steps(Protocol):
    """What a mechanism has besides its call if it decodes with a state: both methods, or neither.

    The state is a tensor, a number, or tuples of those. A mechanism that starts from tokens has `prefill(x_BSE)` and
    `step(x_B1E, state)`.
    """

    def prefill(self, k: "torch.Tensor", v: "torch.Tensor", /) -> State:
        """Read the keys and values of all tokens so far, k_BGSD and v_BGSD (S may be 0), and give the state."""
        ...

    def step(
        self, q: "torch.Tensor", k: "torch.Tensor", v: "torch.Tensor", state: State, /
    ) -> "tuple[torch.Tensor, State]":
        """Take one token further: (out_BH1D, the state after it), given q_BH1D, k_BG1D, v_BG1D and the state before.

        The output is what one query gets from all S + 1 keys. The state before stays good for the same step again: into
        its tensors may be written only what doing it again would write again (the next place of a cache, no sum).
        """
        ...


class Projections(Protocol):
    """How a layer makes heads of tokens: linear, no bias, token by token (Vaswani et al. 2017, section 3.2.2).

    So to mix positions before the projection is to mix them after it: keys(M y) = M keys(y) for any M of S columns.
    """

    def queries(self, x: "torch.Tensor", /) -> "torch.Tensor":
        """Project tokens x_BTE to q_BHTD."""
        ...

    def keys(self, y: "torch.Tensor", /) -> "torch.Tensor":
        """Project tokens y_BSE to k_BGSD, by the weights of the queries where a mechanism ties the two."""
        ...

    def values(self, y: "torch.Tensor", /) -> "torch.Tensor":
        """Project tokens y_BSE to v_BGSD."""
        ...


class FromTokens(Protocol):
    """What a core mechanism has besides its call if between projections it gets to the same result at less cost.

    The layer level calls it in place of the call, but in decoding, where the keys are cached.
    """

    def from_tokens(self, x: "torch.Tensor", y: "torch.Tensor", projections: Projections, /) -> "torch.Tensor":
        """Give out_BHTD for tokens x_BTE that ask and y_BSE that are attended to (in self-attention x itself).

        The very result of the call on queries(x), keys(y) and values(y), and its gradients, within rounding.
        """
        ...


class Shares(Protocol):
    """What a mechanism has besides its call if the layers of a model may share weights."""

    def share(self, first: Any, /) -> None:
        """Take over what all layers have in common from the mechanism of the first one, before anything is trained."""
        ...


class DropsWeights(Protocol):
    """What a mechanism has besides its call if it can drop attention weights while it is trained: one number.

    Its next call drops that share of its weights at random, by torch's global generator, and lets the others grow by
    1 / (1 - share). It is 0.0 until the trained model sets it, and again while the model is scored.
    """

    weight_dropout: float


_PLAIN_FUNCTION = Support(
    causal="a plain function f(q, k, v) is not told the mask; write a class, whose constructor is given the case",
    window="a plain function f(q, k, v) is not told the window; write a class, whose constructor is given the case",
)


def support_of(variant: Any) -> Support:
    """Read what a variant declares; where it declares nothing, only its own constructor will tell."""
    declared = getattr(variant, "supports", None)
    if declared is None:
        return Support(window=True, grouped=True) if inspect.isclass(variant) else _PLAIN_FUNCTION
    if not isinstance(declared, Support):
        raise TypeError(f"{name_of(variant)}.supports is {declared!r}; write supports = attnbench.Support(...)")
    return declared


def options_type(variant: Any) -> type[Options]:
    """Give the type of a variant's (or task's) options: its class `Options`, or one without fields."""
    declared = getattr(variant, "Options", Options)
    if not (inspect.isclass(declared) and issubclass(declared, Options)):
        raise TypeError(f"{name_of(variant)}.Options must be a class derived from attnbench.Options")
    return declared


def complete_options(variant: Any, given: Mapping[str, object]) -> Options:
    """Turn options as typed (text, or values) into the variant's own struct, defaults filled in.

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
    _member(device, support.devices, "device")
    _member(case.dtype, support.dtypes, "dtype")
    if case.passes:
        _member(case.passes, support.passes, "pass")
    # A token that is decoded is the last: it sees all others whether or not it may look ahead.
    _check_mask(support, Mask(causal=True) if case.passes == "decode" and _decodes_only(support, mask) else mask)
    # A token that is decoded is one of the sequence; only at core level it comes as a query against more keys.
    if shape.seq_q != shape.seq_k and not (support.level == "layer" and case.passes == "decode"):
        _allowed(support.cross, "it needs as many queries as keys")
    if shape.kv_heads != shape.heads:
        _allowed(support.grouped, "it has no grouped heads: kv heads must equal heads")
    if support.ties_qk and (shape.seq_q, shape.heads) != (shape.seq_k, shape.kv_heads):
        raise Unsupported("its queries are its keys too, so there must be as many of both, in as many heads")


def check_cross(support: Support) -> None:
    """Raise Unsupported where keys and values are another sequence's, as long as the queries' or not."""
    _allowed(support.cross, "it needs as many queries as keys")
    if support.ties_qk:
        raise Unsupported("its queries are its keys too, so it cannot attend to another sequence")


def _check_mask(support: Support, mask: Mask) -> None:
    if mask.causal:
        _allowed(support.causal, "it has no causal form")
    elif mask.window is None:
        _allowed(support.full, "it has no full (non-causal) form")
    if mask.window is not None:
        _allowed(support.window, "it has no window")


def _decodes_only(support: Support, mask: Mask) -> bool:
    """Whether a mask is refused that a causal form serves as well where there is one query, the last."""
    return mask == Mask() and support.full is not True and support.causal is True


def build(variant: Any, case: Case) -> Attention:
    """Construct a variant for a case whose options are complete; a module is moved to the case's device and dtype.

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
    """Tell whether a mechanism decodes with a state. Raises TypeError where it has only half of what that takes."""
    found = [name for name in ("prefill", "step") if callable(getattr(attention, name, None))]
    if len(found) == 1:
        raise TypeError(
            f"{type(attention).__name__} has {found[0]} alone; decoding with a state takes prefill and step"
        )
    return bool(found)


def has_from_tokens(attention: object) -> TypeGuard[FromTokens]:
    """Tell whether a mechanism has a way of its own from tokens, besides its call."""
    return callable(getattr(attention, "from_tokens", None))


def has_share(attention: object) -> TypeGuard[Shares]:
    """Tell whether a mechanism may share weights with those of other layers."""
    return callable(getattr(attention, "share", None))


def drops_weights(attention: object) -> TypeGuard[DropsWeights]:
    """Tell whether a mechanism can drop attention weights while it is trained."""
    return isinstance(getattr(attention, "weight_dropout", None), float)


def backend_of(attention: Attention) -> str:
    """Name the kernel that really ran, where the variant tells: its attribute `backend`."""
    return str(getattr(attention, "backend", ""))


def _member(value: str, served: tuple[str, ...], what: str) -> None:
    if value not in served:
        raise Unsupported(f"{what} {value} is not served (only {', '.join(served)})")


def _allowed(answer: bool | str, reason: str) -> None:
    if answer is not True:
        raise Unsupported(answer or reason)


def name_of(variant: Callable[..., Any]) -> str:
    """Name a variant as its source does."""
    return str(getattr(variant, "__qualname__", variant))
