"""The variants of a sweep, with complete options: each is described by a child, which imports it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from attnbench.contracts.case import digest
from attnbench.contracts.errors import UsageError
from attnbench.contracts.lengths import ByLength, options_at, parse_by_length
from attnbench.contracts.reach import Span
from attnbench.contracts.record import Origin
from attnbench.contracts.specs import Spec, parse_specs
from attnbench.contracts.suite import Sweep
from attnbench.contracts.tunes import Tune
from attnbench.execute.executor import Executor
from attnbench.execute.messages import DescribeVariant
from attnbench.planning.plugins import describe, describe_each
from attnbench.plugins import registry
from attnbench.plugins.describe import Description
from attnbench.plugins.empty import FLOOR
from attnbench.plugins.registry import Entry

_TRIED_KEYS = 4096  # the length for which options that follow it are checked
_ALL = Spec(name="all")  # in place of a variant's name: every installed one that is not named beside it


class Role(Struct, frozen=True, kw_only=True):
    """What a variant is measured for: the tasks that it is trained on, by name (none: all), and costs."""

    tasks: tuple[str, ...] | None = None
    costs: bool = True


class Candidate(Struct, frozen=True, kw_only=True):
    """A variant with complete options, ready to be planned: its name, and what to import.

    `tunes` are the options that can be tuned, `spans` those that count keys, `by_length` those that follow the length.
    """

    name: str
    target: str
    origin: Origin
    options: dict[str, Any]
    tunes: dict[str, Tune] = {}
    spans: dict[str, Span] = {}
    by_length: dict[str, ByLength] = {}
    role: Role = Role()

    def options_at(self, keys: int) -> dict[str, Any]:
        """Return the options for a number of keys."""
        return options_at(self.options, self.by_length, keys)


def variant_specs(sweep: Sweep) -> tuple[Spec, ...]:
    """Return the variants that a sweep names, `all` spelled out. Raises UsageError."""
    if sweep.variants is None:
        raise UsageError("--variants: neither the suite nor a flag names any; add --variants")
    named = parse_specs(sweep.variants, flag="--variants")
    if any(spec.name == _ALL.name and spec.options for spec in named):
        raise UsageError("--variants: all takes no options; name the variants that do beside it: all,NAME:option=value")
    if _ALL not in named:
        return named
    given = {spec.name for spec in named}
    others = (Spec(name=name) for name in registry.entries("variants") if name != FLOOR and name not in given)
    return *(spec for spec in named if spec != _ALL), *others


def check_names(specs: Iterable[Spec]) -> None:
    """Check that every variant exists, and that no two different plugins share the name in their rows.

    Raises UsageError.
    """
    seen: dict[str, Entry] = {}
    for entry in [registry.find(spec.name, "variants", flag="--variants") for spec in specs]:
        other = seen.setdefault(entry.name, entry)
        if other.target != entry.target:
            raise UsageError(
                f"--variants: {entry.name!r} is both {other.origin} ({other.target}) and {entry.origin} "
                f"({entry.target}); rename one of them"
            )


def candidates(sweep: Sweep, executor: Executor, roles: Mapping[str, Role]) -> tuple[Candidate, ...]:
    """Return the variants of a sweep with complete options, each once. Raises UsageError.

    `roles` has the variants, as they are typed, that are not measured for everything.
    """
    specs, everything = variant_specs(sweep), Role()
    described = (
        replace(one, role=roles.get(str(spec), everything))
        for spec, one in zip(specs, _each(specs, executor), strict=True)
    )
    return tuple({digest(one): one for one in described}.values())


def candidate(spec: Spec, executor: Executor, *, flag: str = "--variants") -> Candidate:
    """Return a variant with complete options; one that cannot be imported is planned too, and fails with the reason.

    Raises UsageError, naming the flag, for an unknown name or option.
    """
    return _each([spec], executor, flag=flag)[0]


def _each(specs: Sequence[Spec], executor: Executor, *, flag: str = "--variants") -> list[Candidate]:
    entries = [registry.find(spec.name, "variants", flag=flag) for spec in specs]
    rules = [{name: rule for name, text in spec.options.items() if (rule := parse_by_length(text))} for spec in specs]
    questions = [
        DescribeVariant(entry=entry, given=options_at(spec.options, by_length, _TRIED_KEYS))
        for spec, entry, by_length in zip(specs, entries, rules, strict=True)
    ]
    descriptions = describe_each(executor, questions, Description)
    return [
        _candidate(spec, entry, description, by_length=by_length, flag=flag)
        for spec, entry, description, by_length in zip(specs, entries, descriptions, rules, strict=True)
    ]


def _candidate(
    spec: Spec, entry: Entry, description: Description, *, by_length: dict[str, ByLength], flag: str
) -> Candidate:
    if description.mistake:
        raise UsageError(f"{flag}: {spec}: {description.mistake}")
    options: dict[str, Any] = dict(spec.options) if description.failure else description.options
    spans = {name: span for name, span in description.spans.items() if name not in by_length}
    return Candidate(
        name=entry.name,
        target=entry.target,
        origin=description.origin,
        options=options,
        tunes=description.tunes,
        spans=spans,
        by_length=by_length,
    )


def describe_variant(executor: Executor, entry: Entry, given: Mapping[str, object] | None = None) -> Description:
    """Return a child's description of a variant; where the import ends the child, the description says how."""
    return describe(executor, DescribeVariant(entry=entry, given=dict(given or {})), Description)
