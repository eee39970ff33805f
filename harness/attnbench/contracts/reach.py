"""How much of the keys a mechanism sees: the share of them, and the options by which the share is kept at a length."""

from collections.abc import Mapping
from typing import Any, Protocol

from msgspec import Struct
from msgspec.inspect import IntType, Type, UnionType
from msgspec.inspect import type_info as inspect_type

from attnbench.contracts.case import Case
from attnbench.contracts.variant import name_of, options_type, support_of


class HasReach(Protocol):
    """Optional static method of a variant that approximates: the share of the keys that a query sees.

    It tells whether a quality measured at one length says anything of another: a mechanism that sees all keys of a
    short sequence, and few of a long one, loses nothing at the first. Without it the share is unknown, and a quality
    counts at its own length alone.
    """

    @staticmethod
    def reach(case: Case) -> float:
        """Return the expected share of the visible keys that a query's output is computed from, the mean over queries.

        Keys that are pooled count as one for each pool (Linformer: k / S). A mechanism whose state or features weigh
        every key in the same way at every length (linear attention) has 1.0.
        """
        ...


def reach_of(variant: Any, case: Case) -> float | None:
    """Return the share of the visible keys that a query sees: 1 for an exact mechanism, None where it is not declared.

    Raises TypeError for a value that is no share.
    """
    if support_of(variant).exact:
        return 1.0
    declared = getattr(variant, "reach", None)
    if declared is None:
        return None
    share = float(declared(case))
    if not 0 < share <= 1:
        raise TypeError(f"{name_of(variant)}.reach(case) gave {share:g}, no share of the keys in (0, 1]")
    return share


class Span(Struct, frozen=True):
    """The values that an option which counts keys may have: multiples, from the least on."""

    least: int = 1
    multiple_of: int = 1

    def nearest(self, value: float) -> int:
        """Return the value that is nearest."""
        return max(self.least, round(value / self.multiple_of) * self.multiple_of)


def spans_of(variant: Any) -> dict[str, Span]:
    """Return the options that count keys (`Support.spans`), with the values that each may have."""
    fields = {field.name: field.type for field in inspect_type(options_type(variant)).fields}  # type: ignore[attr-defined] # a struct's
    return {name: _span(fields[name]) for name in support_of(variant).spans}


def _span(kind: Type) -> Span:
    several = kind.types if isinstance(kind, UnionType) else (kind,)
    whole = next((one for one in several if isinstance(one, IntType)), IntType())
    return Span(max(1, whole.ge or 1), whole.multiple_of or 1)


def scaled(options: Mapping[str, Any], spans: Mapping[str, Span], *, costed: int, trained: int) -> dict[str, Any]:
    """Return options for `trained` keys with which each query sees the share that it sees of `costed` keys.

    `spans` are as `spans_of` returns them. These options change in proportion, to the nearest value that they may have;
    those that are null, and all others, stay. Nothing changes for a sequence that is not shorter.
    """
    if trained >= costed:
        return dict(options)
    return {
        name: spans[name].nearest(value * trained / costed) if name in spans and value is not None else value
        for name, value in options.items()
    }
