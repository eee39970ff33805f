"""A sweep as it is requested: the flags of `attnbench run`, a suite's TOML file, or flags laid over a suite."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Struct

from attnbench.contracts.errors import UsageError
from attnbench.contracts.flags import MEASURE, flag
from attnbench.contracts.toml import read_file

Range = str | int | None  # text in the grammar of ranges, or one number
Names = str | None  # joined by commas


class Linked(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A shape that a suite lists by name: its axes belong together; those it leaves open are the sweep's."""

    name: str
    seq: Range = None
    seq_k: Range = None
    heads: Range = None
    kv_heads: Range = None
    head_dim: Range = None
    width: Range = None
    batch: Range = None
    tokens: Range = None
    causal: bool | None = None
    window: Range = None


class Sweep(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What to sweep and what to measure. Each field is the flag of its name, as text in the grammar of that flag."""

    variants: Annotated[Names, flag("Variants: vanilla, reformer:rounds=4,bucket=64; or all", "NAME,...")] = None
    seq: Annotated[Range, flag("Sequence lengths: 512..16384, 512..4k:+512 or 1k,4k", "RANGE")] = None
    seq_k: Annotated[Range, flag("Key lengths", "RANGE", default="equal to --seq")] = None
    heads: Annotated[Range, flag("Query heads", "RANGE")] = None
    kv_heads: Annotated[Range, flag("Key and value heads (grouped heads)", "RANGE", default="equal to --heads")] = None
    head_dim: Annotated[Range, flag("Features per head", "RANGE")] = None
    width: Annotated[Range, flag("Features of all heads together: head dim = width / heads", "RANGE")] = None
    batch: Annotated[Range, flag("Sequences per batch", "RANGE")] = None
    tokens: Annotated[Range, flag("Tokens per batch: batch = tokens / seq", "RANGE")] = None
    shapes: Annotated[
        str | tuple[Linked, ...] | None,
        flag("Shapes to keep, of those that the suite lists (models)", "NAME,...", default="all"),
    ] = None
    dtype: Annotated[Names, flag("float32, bfloat16, float16, float64", "NAME,...")] = None
    causal: Annotated[bool | None, flag("Causal attention: no query sees a later key")] = None
    window: Annotated[Range, flag("Keys that a query sees, its own included", "RANGE", default="all")] = None
    passes: Annotated[Names, flag("forward, backward, forward-backward, decode (one token)", "NAME,...")] = None
    level: Annotated[Names, flag("core (the mechanism alone), layer (with projections)", "NAME,...")] = None
    inputs: Annotated[
        Names,
        flag(
            "normal, clustered (in groups), outliers (large features), a capture, or file:PATH of one",
            "NAME,...",
            default="normal; for agreement, captures",
        ),
    ] = None
    metrics: Annotated[
        Names, flag("latency, memory, agreement, swap, accuracy, energy, or a plugin's", "NAME,...", panel=MEASURE)
    ] = None
    tasks: Annotated[
        Names, flag("Tasks for swap and accuracy: mqar:preset=small,layers=2", "NAME,...", panel=MEASURE)
    ] = None
    swap: Annotated[
        str | None,
        flag(
            "How to swap: fine-tuning steps, learning_rate; layers=0+2; first exact_tokens; tokens of --text",
            "OPTION=VALUE,...",
            panel=MEASURE,
            default="steps=200,tokens=1024",
        ),
    ] = None
    model: Annotated[
        str | None,
        flag("Pretrained model to swap in: a folder, or an installed package that has one", "DIR", panel=MEASURE),
    ] = None
    text: Annotated[str | None, flag("Text that the pretrained model reads", "FILE", panel=MEASURE)] = None
    scale: Annotated[
        bool | None,
        flag(
            "Scale options that count keys to the task: a query sees the share that it sees at the longest --seq",
            panel=MEASURE,
            default="on where a cost is measured",
        ),
    ] = None
    match: Annotated[
        str | None,
        flag(
            "Train models of equal parameters or equal state instead of equal width",
            "parameters|state",
            panel=MEASURE,
        ),
    ] = None

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
# The defaults of a command that answers for one workload.
USUAL = Sweep(heads=8, head_dim=64, batch=1, passes="forward", level="core", inputs="normal")


class Suite(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named sweep, with the axes that differ on a kind of device."""

    description: str
    sweep: Sweep
    on: dict[Literal["cpu", "cuda", "mps"], Sweep] = {}

    def __post_init__(self) -> None:
        for sweep in (self.sweep, *self.on.values()):
            _check_list(sweep)

    def for_device(self, device: str) -> Sweep:
        """Return the sweep for a device."""
        kind = device.partition(":")[0]
        special = next((sweep for name, sweep in self.on.items() if name == kind), None)
        return overlay(self.sweep, special) if special else self.sweep


def overlay(below: Sweep, above: Sweep) -> Sweep:
    """Return a sweep with another laid over it: each field given above replaces the one below and its alternative.

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
    """Return the suite of a TOML file. Raises UsageError naming the file and its wrong line or field."""
    return read_file(path, Suite, flag=flag)


def flag_of(field: str) -> str:
    """Return the flag of a field."""
    return f"--{field.replace('_', '-')}"


def _check_list(sweep: Sweep) -> None:
    """Raise ValueError for a list of shapes that cannot be chosen from by name."""
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
