"""Descriptions of plugins: a child process imports them, and returns data that the parent can decode.

A plugin that cannot be imported, or breaks the contract, is described by its failure.
"""

import hashlib
import inspect
import math
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path
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
from attnbench.plugins.registry import Entry, load

D = TypeVar("D", "Description", "TaskDescription", "MetricDescription")

_DECLARED = ("title", "unit", "higher_is_better", "replicates", "passes", "is_share")  # what a plugin's metric may say
_INSTALLED = {"site-packages", "dist-packages"}
_LIBRARY = Path(sysconfig.get_path("stdlib")).resolve()


class OptionField(Struct, frozen=True, kw_only=True):
    """One option of a plugin, as `attnbench list variants --details` shows it."""

    name: str
    type: str
    default: Option
    meaning: str = ""


class Description(Struct, frozen=True, kw_only=True):
    """A variant: its support, and its options completed from those given. `spans` is as `spans_of` returns it.

    `failure` says why the plugin could not be imported or read, `mistake` what is wrong with the options given.
    """

    summary: str = ""
    origin: Origin = Origin()
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
    metric: Metric | None = None
    failure: str = ""


def describe_variant(entry: Entry, given: Mapping[str, object]) -> Description:
    """Import a variant and return its description, with the `given` options completed. For child processes only."""
    before = set(sys.modules)
    try:
        variant = load(entry.target)
        support, fields = support_of(variant), option_fields(options_type(variant))
        origin, tunes = _with_sources(entry, before), tunes_of(variant)
        description = _as_received(
            Description(
                summary=_summary(variant),
                origin=origin,
                support=support,
                fields=fields,
                tunes=tunes,
                spans=spans_of(variant),
            )
        )
    except (Exception, SystemExit) as error:
        return Description(origin=entry.origin, failure=f"{type(error).__name__}: {error}")
    try:
        options = _finite(msgspec.structs.asdict(complete_options(variant, given)))
        return _as_received(replace(description, options=options))
    except (msgspec.ValidationError, TypeError) as error:
        return replace(description, mistake=f"{error}; {_usage(fields)}")


def describe_task(entry: Entry, given: Mapping[str, object]) -> TaskDescription:
    """Import a task and return its description, with the `given` options completed. For child processes only."""
    before = set(sys.modules)
    try:
        plugin = load(entry.target)
        fields = (*option_fields(options_type(plugin)), *option_fields(task.Training))
        origin, presets = _with_sources(entry, before), tuple(task.presets_of(plugin))
        description = _as_received(
            TaskDescription(summary=_summary(plugin), origin=origin, fields=fields, presets=presets)
        )
    except (Exception, SystemExit) as error:
        return TaskDescription(origin=entry.origin, failure=f"{type(error).__name__}: {error}")
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
    before = set(sys.modules)
    try:
        plugin = load(entry.target)
        needs = tuple(getattr(plugin, "needs", ()))
        _check_method(plugin, "derive" if needs else "measure")
        fields = {name: getattr(plugin, name) for name in _DECLARED if hasattr(plugin, name)}
        usual = {"title": entry.name.replace("_", " ").replace("-", " "), "replicates": _replicates(needs)}
        passes = {} if needs else {"passes": FORWARD_ONLY}
        metric = Metric(name=entry.name, needs=needs, **usual | passes | fields)
        description = MetricDescription(summary=_summary(plugin), origin=_with_sources(entry, before), metric=metric)
        return _as_received(description)
    except (Exception, SystemExit) as error:
        return MetricDescription(origin=entry.origin, failure=f"{type(error).__name__}: {error}")


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


def _with_sources(entry: Entry, before: set[str]) -> Origin:
    """Return the entry's origin with the hash of those of its own source files that the import has read.

    Its own files are those of its package, or beside it for a single file; installed packages are not.
    """
    files = _files_of(entry.target.rpartition(":")[0])
    if not files:  # built into the interpreter
        return entry.origin
    folder = files[0].parent
    read = (getattr(module, "__file__", None) for name, module in list(sys.modules.items()) if name not in before)
    own = {path for file in read if file and _is_own(path := Path(file).resolve(), folder)}
    sources = hashlib.sha256()
    for file in sorted(own | {files[-1]}):
        if file.is_file():
            sources.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return replace(entry.origin, source_hash=sources.hexdigest()[:16])


def _files_of(module: str) -> list[Path]:
    """Return the files of a plugin's module (or file) and of the packages above it, the outermost first."""
    if module.endswith(".py"):
        return [Path(module).resolve()]
    parts = module.split(".")
    modules = (sys.modules[".".join(parts[:depth])] for depth in range(1, len(parts) + 1))
    return [Path(file).resolve() for package in modules if (file := getattr(package, "__file__", None))]


def _is_own(file: Path, folder: Path) -> bool:
    if not file.is_relative_to(folder) or _INSTALLED & {folder.name, *file.relative_to(folder).parts}:
        return False
    return not (_LIBRARY.is_relative_to(folder) and file.is_relative_to(_LIBRARY))


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
