"""One cell of a sweep: what is computed, at which shape, with which mask; and the key by which it is known."""

import hashlib
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta, Struct

Dtype = Literal["float64", "float32", "bfloat16", "float16"]
Passes = Literal["", "forward", "backward", "forward-backward", "decode"]
Level = Literal["core", "layer"]
Inputs = Literal["normal", "clustered", "outliers"]
Option = bool | int | float | str | None

DTYPES: tuple[Dtype, ...] = get_args(Dtype)

Size = Annotated[int, Meta(ge=1, le=2**31)]


class Shape(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes of the tensors: queries are [batch, heads, seq_q, head_dim], keys and values [batch, kv_heads, seq_k, ...].

    Each field's title is its column's heading, and `flag` the command line's name for it.
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
    """What exact attention means in this workload: which keys a query may see.

    With fewer queries than keys, both are aligned at the end: the last query sees all keys. Without causality a window
    of w reaches w - 1 keys to either side of a query's own.
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
        Inputs, Meta(title="inputs", extra={"flag": "--inputs"}, description="how queries, keys and values are drawn")
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
    def differentiates(self) -> bool:
        """Whether the pass computes gradients."""
        return self.passes in ("backward", "forward-backward")


def digest(*values: object) -> str:
    """Hash values by their canonical JSON (sorted keys): 16 hexadecimal digits, the same on every machine."""
    return hashlib.sha256(msgspec.json.encode(values, order="deterministic")).hexdigest()[:16]


def seed_for(seed: int, *purpose: object) -> int:
    """Turn a seed into that of one purpose: what is drawn for another purpose from the same seed shares nothing."""
    return int(digest(seed, *purpose), 16) % 2**63
