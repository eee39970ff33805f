"""Descriptions of plugins: a child process imports them, and returns data that the parent can decode.

A plugin that cannot be imported, or breaks the contract, is described by its failure.
"""

import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from attnbench.contracts import task
from attnbench.contracts.case import Mask, Option, Shape
from attnbench.contracts.errors import UsageError
from attnbench.contracts.longer import check_beyond
from attnbench.contracts.metrics import FORWARD_ONLY, Metric, metric_named
from attnbench.contracts.reach import Span, spans_of
from attnbench.contracts.record import Origin
from attnbench.contracts.tunes import Tune, tunes_of
from attnbench.contracts.variant import Support, complete_options, name_of, options_type, support_of
from attnbench.plugins import sources
from attnbench.plugins.registry import Entry, NoSuchObject, load

D = TypeVar("D", "Description", "TaskDescription", "MetricDescription")

_DECLARED = ("title", "unit", "higher_is_better", "replicates", "passes", "is_share")  # what a plugin's metric may say


class OptionField(Struct, frozen=True, kw_only=True):
    """One option of a plugin, as `attnbench list variants --details` shows it."""

    name: str
    type: str
    default: Option
    meaning: str = ""


class Description(Struct, frozen=True, kw_only=True):
    """A variant: its support, and its options completed from those given. `spans` is as `spans_of` returns it.

    `sources` are the files that its import read, with their hashes. `failure` says why the plugin could not be imported
    or read, `mistake` what is wrong with the name or the options as typed.
    """

    summary: str = ""
    origin: Origin = Origin()
    sources: dict[str, str] = {}
    support: Support | None = None
    fields: tuple[OptionField, ...] = ()
    options: dict[str, Option] = {}
    tunes: dict[str, Tune] = {}
    spans: dict[str, Span] = {}
    failure: str = ""
    mistake: str = ""


class TaskDescription(Struct, frozen=True, kw_only=True):
    """A task: its options completed from those given, and the model's shape and mask and the number of seeds for them.

    `label` names the task in rows: its preset, and what differs from it. `failure` and `mistake` as in Description.
    """

    summary: str = ""
    origin: Origin = Origin()
    sources: dict[str, str] = {}
    fields: tuple[OptionField, ...] = ()
    presets: tuple[str, ...] = ()
    options: dict[str, Option] = {}
    label: str = ""
    shape: Shape | None = None
    mask: Mask = Mask()
    seeds: int = 1
    failure: str = ""
    mistake: str = ""


class MetricDescription(Struct, frozen=True, kw_only=True):
    """A metric as its plugin declares it, or the reason why that could not be read."""

    summary: str = ""
    origin: Origin = Origin()
    sources: dict[str, str] = {}
    metric: Metric | None = None
    failure: str = ""
    mistake: str = ""


def describe_variant(entry: Entry, given: Mapping[str, object]) -> Description:
    """Import a variant and return its description, with the `given` options completed. For child processes only."""
    sources.watch()
    try:
        variant = load(entry.target)
        support, fields = support_of(variant), option_fields(options_type(variant))
        origin, files = _read(entry)
        description = _as_received(
            Description(
                summary=_summary(variant),
                origin=origin,
                sources=files,
                support=support,
                fields=fields,
                tunes=tunes_of(variant),
                spans=spans_of(variant),
            )
        )
    except (Exception, SystemExit) as error:
        return Description(**_failed(entry, error))
    try:
        options = _finite(msgspec.structs.asdict(complete_options(variant, given)))
        return _as_received(replace(description, options=options))
    except (msgspec.ValidationError, TypeError) as error:
        return replace(description, mistake=f"{error}; {_usage(fields)}")


def describe_task(entry: Entry, given: Mapping[str, object]) -> TaskDescription:
    """Import a task and return its description, with the `given` options completed. For child processes only."""
    sources.watch()
    try:
        plugin = load(entry.target)
        fields = (*option_fields(options_type(plugin)), *option_fields(task.Training))
        presets, (origin, files) = tuple(task.presets_of(plugin)), _read(entry)
        description = _as_received(
            TaskDescription(summary=_summary(plugin), origin=origin, sources=files, fields=fields, presets=presets)
        )
    except (Exception, SystemExit) as error:
        return TaskDescription(**_failed(entry, error))
    try:
        settings = task.settings_of(plugin, given)
        built = task.build_task(plugin, settings)
        shape = task.shape_of(built.form, settings.training)
        check_beyond(built, settings.training)
        completed = replace(
            description,
            options=_finite(settings.flat),
            label=settings.label(entry.name),
            shape=shape,
            mask=built.form.mask,
            seeds=settings.training.seeds,
        )
        return _as_received(completed)
    except (UsageError, ValueError) as error:  # ValidationError is a ValueError
        return replace(description, mistake=str(error))
    except (Exception, SystemExit) as error:
        return replace(description, failure=f"{type(error).__name__}: {error}")


def describe_metric(entry: Entry) -> MetricDescription:
    """Import a metric and return its description. For child processes only.

    A metric is a class with `measure(case, attention, *inputs)`, or with `needs` and `derive(case, figures)`. Its
    attributes `title`, `unit`, `higher_is_better`, `replicates` and `passes` are those of `Metric`.
    """
    sources.watch()
    try:
        plugin = load(entry.target)
        needs = tuple(getattr(plugin, "needs", ()))
        _check_method(plugin, "derive" if needs else "measure")
        fields = {name: getattr(plugin, name) for name in _DECLARED if hasattr(plugin, name)}
        usual = {"title": entry.name.replace("_", " ").replace("-", " "), "replicates": _replicates(needs)}
        passes = {} if needs else {"passes": FORWARD_ONLY}
        metric = Metric(name=entry.name, needs=needs, **usual | passes | fields)
        origin, files = _read(entry)
        description = MetricDescription(summary=_summary(plugin), origin=origin, sources=files, metric=metric)
        return _as_received(description)
    except (Exception, SystemExit) as error:
        return MetricDescription(**_failed(entry, error))


def _check_method(plugin: Any, name: str) -> None:
    if not callable(getattr(plugin, name, None)):
        raise TypeError(f"{name_of(plugin)} has no {name}()")


def _replicates(needs: Iterable[str]) -> str:
    """Return what repeats a derived metric: rounds, if they repeat any metric that it is derived from."""
    return "rounds" if any(metric_named(name).replicates == "rounds" for name in needs) else "none"


def option_fields(kind: type[Struct]) -> tuple[OptionField, ...]:
    """Return the fields of an options struct with their types, defaults and meanings."""
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    return tuple(
        OptionField(
            name=field.name,
            type=_type_name(field.type),
            default=None if field.default is msgspec.NODEFAULT else field.default,
            meaning=_meaning(field.type),
        )
        for field in info.fields
    )


def _read(entry: Entry) -> tuple[Origin, dict[str, str]]:
    """Return the entry's origin with the hash of what its import has read, and the files with their hashes."""
    watch = sources.watch()
    return replace(entry.origin, source_hash=watch.hash_of(entry.target)), dict(watch.files)


def _failed(entry: Entry, error: BaseException) -> dict[str, Any]:
    """Return what is known of a plugin that cannot be described; its origin's hash covers the reason too."""
    origin, files = _read(entry)
    reason = f"{type(error).__name__}: {error}"
    origin = replace(origin, source_hash=sources.hash_text(f"{origin.source_hash} {reason}"))
    is_typed = not entry.origin.distribution
    mistaken = is_typed and (isinstance(error, NoSuchObject) or _is_missing_itself(entry, error))
    return {"origin": origin, "sources": files, "failure": reason, "mistake": str(error) if mistaken else ""}


def _is_missing_itself(entry: Entry, error: BaseException) -> bool:
    """Return whether it is the plugin's module that does not exist, rather than one that it imports."""
    module = entry.target.rpartition(":")[0]
    return isinstance(error, ModuleNotFoundError) and bool(error.name) and f"{module}.".startswith(f"{error.name}.")


def _as_received(description: D) -> D:
    """Return a description as the parent will decode it. Raises ValidationError for a plugin's value that it cannot."""
    return msgspec.json.decode(msgspec.json.encode(description), type=type(description))


def _finite(options: dict[str, Option]) -> dict[str, Option]:
    for name, value in options.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise msgspec.ValidationError(f"Expected a finite number - at `$.{name}`")
    return options


def _summary(plugin: Any) -> str:
    """Return the first line of the plugin's own docstring; a base class's is not inherited."""
    return inspect.cleandoc(plugin.__doc__ or "").split("\n", 1)[0]


def _usage(fields: tuple[OptionField, ...]) -> str:
    if not fields:
        return "it takes no options"
    return "its options are " + ", ".join(f"{field.name} ({field.type}, {field.default})" for field in fields)


def _type_name(kind: msgspec.inspect.Type) -> str:
    match kind:
        case msgspec.inspect.Metadata(type=inner):
            return _type_name(inner)
        case msgspec.inspect.LiteralType(values=values):
            return "|".join(str(value) for value in values)
        case msgspec.inspect.UnionType(types=types):
            return "|".join(map(_type_name, types))
        case _:
            return type(kind).__name__.removesuffix("Type").lower()


def _meaning(kind: msgspec.inspect.Type) -> str:
    if isinstance(kind, msgspec.inspect.Metadata):
        return str((kind.extra_json_schema or {}).get("description", ""))
    return ""
