"""The sweep of a suite, with flags applied to it."""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import asdict, replace

from attnbench.contracts.case import Case
from attnbench.contracts.errors import UsageError, suggestion
from attnbench.contracts.ranges import parse_range
from attnbench.contracts.suite import LINKABLE, Linked, Suite, Sweep, flag_of, overlay, read_suite
from attnbench.planning.cases import shapes
from attnbench.plugins import registry

# What follows from an axis that is given, or gives the same size in other words.
_FOLLOWS = {"seq": "seq_k", "heads": "kv_heads", "head_dim": "width", "width": "head_dim"} | {
    "batch": "tokens",
    "tokens": "batch",
}
_MOST_LISTED = 8
# A plugin's file before its object, or a capture's after its word.
_FILE = re.compile(r"(?P<before>(?:^|,)\s*(?:file:)?)(?P<file>(?<=file:)[^,]+|[^,:=]+\.py(?=:))")


def find_suite(name: str) -> Suite:
    """Return a suite by its name, or from a TOML file, whose paths start from its folder. Raises UsageError."""
    if name.endswith(".toml"):
        suite, folder = read_suite(Path(name)), Path(name).expanduser().resolve().parent
        on = {device: _from_folder(folder, sweep) for device, sweep in suite.on.items()}
        return replace(suite, sweep=_from_folder(folder, suite.sweep), on=on)
    return read_suite(registry.resource(registry.find(name, "suites", flag="--suite")))


def _from_folder(folder: Path, sweep: Sweep) -> Sweep:
    """Return a sweep whose files are named by whole paths."""

    def whole(text: str) -> str:
        if text.startswith("~") or Path(text).is_absolute():
            return text
        if "," in str(folder):
            raise UsageError(f"--suite: {folder} has a comma in its name, which separates plugins; rename it")
        return str((folder / text).resolve())

    def in_names(names: str | None) -> str | None:
        return names and _FILE.sub(lambda match: match["before"] + whole(match["file"]), names)

    return replace(
        sweep,
        variants=in_names(sweep.variants),
        metrics=in_names(sweep.metrics),
        tasks=in_names(sweep.tasks),
        inputs=in_names(sweep.inputs),
        text=sweep.text and whole(sweep.text),
        model=whole(sweep.model) if sweep.model and (folder / sweep.model).exists() else sweep.model,
    )


def apply_flags(suite: Sweep, flags: Sweep) -> Sweep:
    """Return a suite's sweep with flags applied: each replaces the axis of its name, or filters the shapes listed.

    In the result `shapes` holds the listed shapes that are left, with all their sizes. Raises UsageError for flags that
    leave nothing.
    """
    if not isinstance(suite.shapes, tuple):
        if flags.shapes is not None:
            raise UsageError("--shapes: this suite lists no shapes to choose from; leave it out")
        return overlay(suite, flags)
    overlay(Sweep(), flags)  # refuses flags that give one size twice
    linked = _linked(suite.shapes)
    below = overlay(suite, replace(flags, shapes=None, **dict.fromkeys(linked)))
    left = list(shapes(below))
    for axis, wanted in _filters(flags, linked, tuple(left)):
        left = [case for case in left if _value(case, axis) in wanted]
    if not left:
        given = ", ".join(flag_of(name) for name in ("shapes", *linked) if getattr(flags, name) is not None)
        raise UsageError(f"{given}: no shape of the suite has all of these; leave one out")
    return replace(below, shapes=tuple(dict.fromkeys(map(_complete, left))))


def _linked(listed: Sequence[Linked]) -> tuple[str, ...]:
    """Return the axes that a list links: those that any of its shapes gives, and what follows from them."""
    given = [name for name in LINKABLE if any(getattr(shape, name) is not None for shape in listed)]
    return tuple(dict.fromkeys((*given, *(_FOLLOWS[name] for name in given if name in _FOLLOWS))))


def _filters(flags: Sweep, linked: Iterable[str], listed: Sequence[Case]) -> Iterator[tuple[str, Collection[Any]]]:
    """Yield each flag's axis with the values that it keeps.

    Raises UsageError for a flag that no listed shape satisfies, saying what there is.
    """
    if isinstance(flags.shapes, str):
        yield "shapes", _names(flags.shapes, list(dict.fromkeys(case.shape_name for case in listed)))
    for axis in linked:
        given = getattr(flags, axis)
        if given is None:
            continue
        wanted = {given} if isinstance(given, bool) else set(parse_range(str(given), flag=flag_of(axis)))
        present = dict.fromkeys(_value(case, axis) for case in listed)
        if not wanted & present.keys():
            raise UsageError(f"{_as_typed(axis, given)}: no shape of the suite has that{_choice(axis, present)}")
        yield axis, wanted


def _value(case: Case, axis: str) -> Any:
    """Return the value that an axis of a sweep has in a case."""
    shape = case.shape
    derived = {"seq": shape.seq_q, "width": shape.heads * shape.head_dim, "tokens": shape.batch * shape.seq_q}
    return (derived | {"shapes": case.shape_name} | asdict(shape) | asdict(case.mask))[axis]


def _names(text: str, known: Sequence[str]) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise UsageError(f"--shapes: the suite has no shape {name!r}; {suggestion(name, known)}")
    return names


def _as_typed(axis: str, given: str | int | bool) -> str:
    if isinstance(given, bool):
        return flag_of(axis) if given else f"--no-{axis}"
    return f"{flag_of(axis)} {given}"


def _choice(axis: str, values: Iterable[int | None]) -> str:
    known = sorted(value for value in values if value is not None and not isinstance(value, bool))
    if not known:
        return "; leave it out" if axis != "causal" else ""
    return f"; there are {', '.join([*map(str, known[:_MOST_LISTED]), *['...'] * (len(known) > _MOST_LISTED)])}"


def _complete(case: Case) -> Linked:
    """Return a case's sizes and mask as a listed shape that leaves none of them open."""
    values = {"seq": case.shape.seq_q} | asdict(case.shape) | asdict(case.mask)
    return Linked(name=case.shape_name, **{name: values[name] for name in LINKABLE if name in values})
