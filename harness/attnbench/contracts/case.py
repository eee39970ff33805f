"""A case: what is computed, at which shape and with which mask, and the key that identifies it."""

import hashlib
from collections.abc import Collection, Mapping
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta, Struct

Dtype = Literal["float64", "float32", "bfloat16", "float16"]
Passes = Literal["", "forward", "backward", "forward-backward", "decode"]
Level = Literal["core", "layer"]
DRAWN = ("normal", "clustered", "outliers")
Option = bool | int | float | str | None
AxisValue = bool | int | str | None
Axes = dict[str, AxisValue]  # by name, as `Case.axes` returns them
Identity = tuple[str, str, str]  # a variant, its options as canonical JSON, and its origin

DTYPES: tuple[Dtype, ...] = get_args(Dtype)

Size = Annotated[int, Meta(ge=1, le=2**31)]


class Shape(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes of the tensors: queries are [batch, heads, seq_q, head_dim], keys and values [batch, kv_heads, seq_k, ...].

    A field's title heads its column in tables; `flag` is its name on the command line.
    """

    batch: Annotated[Size, Meta(title="batch", extra={"flag": "--batch"}, description="sequences in a batch (B)")]
    heads: Annotated[Size, Meta(title="heads", extra={"flag": "--heads"}, description="query heads (H)")]
    kv_heads: Annotated[
        Size, Meta(title="kv heads", extra={"flag": "--kv-heads"}, description="key and value heads (G)")
    ]
    seq_q: Annotated[Size, Meta(title="seq", extra={"flag": "--seq"}, description="queries (T)")]
    seq_k: Annotated[Size, Meta(title="seq k", extra={"flag": "--seq-k"}, description="keys (S)")]
    head_dim: Annotated[
        Size, Meta(title="head dim", extra={"flag": "--head-dim"}, description="features of a head (D)")
    ]


class Mask(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which keys a query may see; this defines exact attention for the workload.

    With fewer queries than keys, both are aligned at the end: the last query sees all keys. Without causality a window
    of w reaches w - 1 keys to either side of the query's own position.
    """

    causal: Annotated[
        bool, Meta(title="causal", extra={"flag": "--causal"}, description="a query sees no later key")
    ] = False
    window: Annotated[
        Size | None,
        Meta(title="window", extra={"flag": "--window"}, description="keys a query sees, its own included"),
    ] = None


class Case(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A variant with complete options at one shape, mask, dtype, device and pass."""

    variant: Annotated[str, Meta(title="variant", extra={"flag": "--variants"}, description="the name as asked")]
    options: Annotated[
        dict[str, Option],
        Meta(title="options", extra={"flag": "--variants"}, description="complete: defaults filled in"),
    ] = {}
    shape: Shape
    mask: Mask = Mask()
    dtype: Annotated[Dtype, Meta(title="dtype", extra={"flag": "--dtype"}, description="of the inputs")] = "float32"
    device: Annotated[str, Meta(title="device", extra={"flag": "--device"}, description="cpu, cuda:0, ...")] = "cpu"
    passes: Annotated[
        Passes, Meta(title="passes", extra={"flag": "--passes"}, description="empty where it does not apply")
    ] = "forward"
    level: Annotated[
        Level, Meta(title="level", extra={"flag": "--level"}, description="the mechanism alone, or with projections")
    ] = "core"
    inputs: Annotated[
        str,
        Meta(
            title="inputs",
            extra={"flag": "--inputs"},
            description="how queries, keys and values are drawn, or the capture and the layer that they are from",
        ),
    ] = "normal"
    shape_name: Annotated[
        str, Meta(title="shape", extra={"flag": "--shapes"}, description="the shape's name where the suite lists it")
    ] = ""
    seed: Annotated[int, Meta(title="seed", extra={"flag": "--seed"}, description="of inputs, weights and order")] = 0

    @property
    def key(self) -> str:
        """The case's stable name: a hash of its canonical JSON."""
        return digest(self)

    @property
    def length(self) -> int:
        """The sequence length: the number of keys for a decoding query, else the number of queries."""
        return self.shape.seq_k if self.passes == "decode" else self.shape.seq_q

    @property
    def identity(self) -> tuple[str, str]:
        """The variant and its options as canonical JSON: equal for equal variants, whatever the workload."""
        return self.variant, canonical(self.options)

    def axes(self, *, without: Collection[str] = ()) -> Axes:
        """Return the workload by axis: every field but the variant and its options, nested ones included."""
        parts = (self.shape, self.mask, self)
        return {
            name: getattr(part, name)
            for part in parts
            for name in part.__struct_fields__
            if name in AXES and name not in without
        }

    @property
    def differentiates(self) -> bool:
        """Whether the pass computes gradients."""
        return self.passes in ("backward", "forward-backward")


# What every case has beside its variant, in the order of `Case.axes`.
AXES = tuple(
    name
    for part in (Shape, Mask, Case)
    for name in part.__struct_fields__
    if name not in ("shape", "mask", "variant", "options")
)


def canonical(options: Mapping[str, Option]) -> str:
    """Return a mapping as JSON with sorted keys: equal mappings give equal text."""
    return msgspec.json.encode(options, order="deterministic").decode()


def digest(*values: object) -> str:
    """Return a hash of the values' canonical JSON (sorted keys): 16 hexadecimal digits, the same on every machine."""
    return hashlib.sha256(msgspec.json.encode(values, order="deterministic")).hexdigest()[:16]


def seed_for(seed: int, *purpose: object) -> int:
    """Return a seed for one purpose; seeds derived for different purposes give independent draws."""
    return int(digest(seed, *purpose), 16) % 2**63
