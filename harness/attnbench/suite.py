"""A sweep as it is asked for: the flags of `attnbench run`, or a suite's TOML file, or the one laid over the other."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from attnbench.errors import UsageError

Text = str | int


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
    dtype: Annotated[str | None, Meta(description="dtypes, joined by commas")] = None
    causal: Annotated[bool | None, Meta(description="a query sees no later key")] = None
    window: Annotated[Text | None, Meta(description="keys a query sees, its own included")] = None
    passes: Annotated[str | None, Meta(description="forward, backward, forward-backward, decode")] = None
    level: Annotated[str | None, Meta(description="core, layer")] = None
    inputs: Annotated[str | None, Meta(description="normal, clustered, outliers")] = None
    metrics: Annotated[str | None, Meta(description="latency, memory, agreement, accuracy, energy")] = None
    tasks: Annotated[str | None, Meta(description="tasks for accuracy, with options")] = None


# One of each pair is given; a flag for one replaces the suite's other.
_ALTERNATIVES = (("head_dim", "width"), ("batch", "tokens"))


# The workload of an answer that is for one, where nobody says otherwise.
USUAL = Sweep(heads=8, head_dim=64, batch=1, passes="forward", level="core", inputs="normal")


class Suite(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named sweep. `on` holds what differs on a kind of device: cpu, cuda or mps."""

    description: str
    sweep: Sweep
    on: dict[str, Sweep] = {}

    def for_device(self, device: str) -> Sweep:
        """Give the sweep with what differs on this device laid over it."""
        special = self.on.get(device.partition(":")[0])
        return overlay(self.sweep, special) if special else self.sweep


def overlay(below: Sweep, above: Sweep) -> Sweep:
    """Lay one sweep over another: a field that is given above replaces the one below, and its alternative too.

    Raises UsageError where both of two alternatives are given above.
    """
    given: dict[str, Any] = {name: value for name, value in msgspec.structs.asdict(above).items() if value is not None}
    for one, other in _ALTERNATIVES:
        if one in given and other in given:
            raise UsageError(f"--{_flag(one)} and --{_flag(other)} say the same thing twice; give one of them")
        if one in given or other in given:
            given = {one: None, other: None, **given}
    return msgspec.structs.replace(below, **given)


def read_suite(path: Path, *, flag: str = "--suite") -> Suite:
    """Read a suite from its TOML file. Raises UsageError naming the file and its wrong line or field."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Suite)
    except OSError as error:
        raise UsageError(f"{flag}: {str(path)!r} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{flag}: {str(path)!r}: {error}") from error


def _flag(field: str) -> str:
    return field.replace("_", "-")
