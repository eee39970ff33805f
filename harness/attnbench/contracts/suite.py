"""A sweep as it is asked for: the flags of `attnbench run`, or a suite's TOML file, or the one laid over the other."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from attnbench.contracts.errors import UsageError
from attnbench.contracts.toml import read_file

Text = str | int


class Linked(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A shape that a suite lists by name: its axes belong together, and what it leaves open is the sweep's."""

    name: str
    seq: Text | None = None
    seq_k: Text | None = None
    heads: Text | None = None
    kv_heads: Text | None = None
    head_dim: Text | None = None
    width: Text | None = None
    batch: Text | None = None
    tokens: Text | None = None
    causal: bool | None = None
    window: Text | None = None


class Sweep(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What to sweep and what to measure. Each field is the flag of its name, as text in the grammar of that flag."""

    variants: Annotated[str | None, Meta(description="names with options, joined by commas")] = None
    seq: Annotated[Text | None, Meta(description="sequence lengths (of the queries)")] = None
    seq_k: Annotated[Text | None, Meta(description="key lengths; default: equal to seq")] = None
    heads: Annotated[Text | None, Meta(description="query heads")] = None
    kv_heads: Annotated[Text | None, Meta(description="key and value heads; default: equal to heads")] = None
    head_dim: Annotated[Text | None, Meta(description="features of a head")] = None
    width: Annotated[Text | None, Meta(description="features of all heads together: head dim = width / heads")] = None
    batch: Annotated[Text | None, Meta(description="sequences in a batch")] = None
    tokens: Annotated[Text | None, Meta(description="tokens in a batch: batch = tokens / seq")] = None
    shapes: Annotated[
        str | tuple[Linked, ...] | None, Meta(description="a list of shapes in place of axes; as a flag, names of it")
    ] = None
    dtype: Annotated[str | None, Meta(description="dtypes, joined by commas")] = None
    causal: Annotated[bool | None, Meta(description="a query sees no later key")] = None
    window: Annotated[Text | None, Meta(description="keys a query sees, its own included")] = None
    passes: Annotated[str | None, Meta(description="forward, backward, forward-backward, decode")] = None
    level: Annotated[str | None, Meta(description="core, layer")] = None
    inputs: Annotated[str | None, Meta(description="normal, clustered, outliers")] = None
    metrics: Annotated[str | None, Meta(description="latency, memory, agreement, accuracy, energy")] = None
    tasks: Annotated[str | None, Meta(description="tasks for accuracy, with options")] = None

    @property
    def given(self) -> frozenset[str]:
        """The fields that have a value, here or in a listed shape."""
        listed = self.shapes if isinstance(self.shapes, tuple) else ()
        structs = map(msgspec.structs.asdict, (self, *listed))
        return frozenset(name for each in structs for name, value in each.items() if value is not None)


_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)

LINKABLE = tuple(name for name in Linked.__struct_fields__ if name != "name")
# One of each pair is given; a flag for one replaces the suite's other.
_ALTERNATIVES = (("head_dim", "width"), ("batch", "tokens"))


# The workload of an answer that is for one, where nobody says otherwise.
USUAL = Sweep(heads=8, head_dim=64, batch=1, passes="forward", level="core", inputs="normal")


class Suite(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named sweep. `on` holds what differs on a kind of device."""

    description: str
    sweep: Sweep
    on: dict[Literal["cpu", "cuda", "mps"], Sweep] = {}

    def __post_init__(self) -> None:
        for sweep in (self.sweep, *self.on.values()):
            _check_list(sweep)

    def for_device(self, device: str) -> Sweep:
        """Give the sweep with what differs on this device laid over it."""
        kind = device.partition(":")[0]
        special = next((sweep for name, sweep in self.on.items() if name == kind), None)
        return overlay(self.sweep, special) if special else self.sweep


def overlay(below: Sweep, above: Sweep) -> Sweep:
    """Lay one sweep over another: a field that is given above replaces the one below, and its alternative too.

    Raises UsageError where both of two alternatives are given above.
    """
    given: dict[str, Any] = {name: value for name, value in msgspec.structs.asdict(above).items() if value is not None}
    for one, other in _ALTERNATIVES:
        if one in given and other in given:
            raise UsageError(f"{flag_of(one)} and {flag_of(other)} say the same thing twice; give one of them")
        if one in given or other in given:
            given = {one: None, other: None, **given}
    return msgspec.structs.replace(below, **given)


def read_suite(path: Path, *, flag: str = "--suite") -> Suite:
    """Read a suite from its TOML file. Raises UsageError naming the file and its wrong line or field."""
    return read_file(path, Suite, flag=flag)


def flag_of(field: str) -> str:
    """Name the flag of a field."""
    return f"--{field.replace('_', '-')}"


def _check_list(sweep: Sweep) -> None:
    """Raise ValueError for a list of shapes that nobody could choose from."""
    if sweep.shapes is None:
        return
    if isinstance(sweep.shapes, str) or not sweep.shapes:
        raise ValueError("shapes is a list of tables, each with a name: [[sweep.shapes]]")
    names = [each.name for each in sweep.shapes]
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be a shape's name; use letters, digits, dots, hyphens and underscores")
        if names.count(name) > 1:
            raise ValueError(f"two shapes are called {name!r}; rename one of them")
