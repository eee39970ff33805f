"""Where plugins are found: by entry-point name, `./file.py:Name` or `module:Name`; none is imported until it is used.

The parent process resolves names to entries. Only a child calls `load` or `describe`, which import the plugin.
"""

import hashlib
import importlib
import importlib.util
import inspect
import math
import sys
import sysconfig
from collections.abc import Mapping
from importlib.metadata import Distribution, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from attnbench.case import Option
from attnbench.errors import UsageError, is_text, suggestion
from attnbench.record import Origin
from attnbench.variant import Support, complete_options, options_type, support_of

Group = Literal["variants", "tasks", "suites"]

_INSTALLED = {"site-packages", "dist-packages"}
_LIBRARY = Path(sysconfig.get_path("stdlib")).resolve()


class Entry(Struct, frozen=True, kw_only=True):
    """A plugin that is known by name and not yet imported; `target` is `module:Name` or `/path/file.py:Name`."""

    name: str
    target: str
    origin: Origin


class OptionField(Struct, frozen=True, kw_only=True):
    """One option of a plugin, as `attnbench list variants --details` shows it."""

    name: str
    type: str
    default: Option
    meaning: str = ""


class Description(Struct, frozen=True, kw_only=True):
    """What a child found out about a plugin: its options (complete, for the spec it was asked with) and its support.

    `failure` says why the plugin could not be imported or read; `mistake` what is wrong with the options given.
    """

    summary: str = ""
    origin: Origin = Origin()
    support: Support | None = None
    fields: tuple[OptionField, ...] = ()
    options: dict[str, Option] = {}
    failure: str = ""
    mistake: str = ""


def entries(group: Group) -> dict[str, tuple[Entry, ...]]:
    """List the installed plugins of a group by name; a name that two distributions claim has two entries."""
    found: dict[str, list[Entry]] = {}
    for point in entry_points(group=f"attnbench.{group}"):
        distribution = point.dist
        origin = _installed_by(distribution) if distribution else Origin()
        found.setdefault(point.name, []).append(Entry(name=point.name, target=point.value, origin=origin))
    return {name: tuple(found[name]) for name in sorted(found)}


def find(name: str, group: Group, *, flag: str) -> Entry:
    """Resolve a name to its one entry, without importing it.

    Raises UsageError for a name that is unknown, claimed twice, or a file that is not there.
    """
    head, colon, attribute = name.rpartition(":")
    if colon:
        return _outside(head, attribute, name, flag)
    known = entries(group)
    match known.get(name, ()):
        case ():
            hint = f"{name} looks like a file: write ./{name}:Name" if name.endswith(".py") else suggestion(name, known)
            raise UsageError(f"{flag}: no {group.rstrip('s')} is called {name!r}; {hint}")
        case (entry,):
            return entry
        case claims:
            origins = " and ".join(f"{claim.origin} ({claim.target})" for claim in claims)
            raise UsageError(f"{flag}: {name!r} is claimed by {origins}; uninstall one, or name it as module:Name")


def load(target: str) -> Any:
    """Import a plugin's module and give the object it names. For child processes only.

    Raises whatever the module raises, and AttributeError with the nearest name where it has no such object.
    """
    place, _, attribute = target.rpartition(":")
    module = _import_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    value: Any = module
    for part in attribute.split("."):
        if not hasattr(value, part):
            public = [name for name in dir(value) if not name.startswith("_")]
            raise AttributeError(f"{place} has no {attribute!r}; {suggestion(part, public)}")
        value = getattr(value, part)
    return value


def resource(entry: Entry) -> Path:
    """Give the path of a file that an entry point names as `package:file`, without importing the package."""
    package, _, name = entry.target.partition(":")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(
            f"{entry.name!r} names {entry.target!r}, but {package!r} is no installed package; reinstall it"
        )
    return Path(spec.submodule_search_locations[0]) / name


def describe_variant(entry: Entry, given: Mapping[str, object]) -> Description:
    """Import a variant and tell what it is, with `given` options completed. For child processes only."""
    before = set(sys.modules)
    try:
        variant = load(entry.target)
        support, fields = support_of(variant), option_fields(options_type(variant))
        summary = inspect.cleandoc(variant.__doc__ or "").split("\n", 1)[0]  # its own, not the base class's
        origin = with_sources(entry, before)
        described = _as_received(Description(summary=summary, origin=origin, support=support, fields=fields))
    except (Exception, SystemExit) as error:
        return Description(origin=entry.origin, failure=f"{type(error).__name__}: {error}")
    try:
        options = _finite(msgspec.structs.asdict(complete_options(variant, given)))
        return _as_received(replace(described, options=options))
    except (msgspec.ValidationError, TypeError) as error:
        return replace(described, mistake=f"{error}; {_usage(fields)}")


def option_fields(kind: type[Struct]) -> tuple[OptionField, ...]:
    """List the fields of an options struct with their types, defaults and meanings."""
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


def with_sources(entry: Entry, before: set[str]) -> Origin:
    """Add to an entry's origin the hash of every source file of its own that importing it has read.

    Its own are the files of its package, or those beside it where it is a single file, but none that was installed.
    """
    named = _files_of(entry.target.rpartition(":")[0])
    if not named:  # built into the interpreter
        return entry.origin
    folder = named[0].parent
    read = (getattr(module, "__file__", None) for name, module in list(sys.modules.items()) if name not in before)
    own = {path for file in read if file and _is_own(path := Path(file).resolve(), folder)}
    total = hashlib.sha256()
    for file in sorted(own | {named[-1]}):
        if file.is_file():
            total.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return replace(entry.origin, source_hash=total.hexdigest()[:16])


def _files_of(place: str) -> list[Path]:
    """List the files of a plugin's module and of the packages above it, the outermost first."""
    if place.endswith(".py"):
        return [Path(place).resolve()]
    parts = place.split(".")
    modules = (sys.modules[".".join(parts[:depth])] for depth in range(1, len(parts) + 1))
    return [Path(file).resolve() for module in modules if (file := getattr(module, "__file__", None))]


def _is_own(file: Path, folder: Path) -> bool:
    if not file.is_relative_to(folder) or _INSTALLED & {folder.name, *file.relative_to(folder).parts}:
        return False
    return not (_LIBRARY.is_relative_to(folder) and file.is_relative_to(_LIBRARY))


def _installed_by(distribution: Distribution) -> Origin:
    """Name a distribution; one whose metadata is lost still has plugins, and no name."""
    told = distribution.metadata
    name = told["Name"] if "Name" in told else "unknown"  # noqa: SIM401 - no `get` is promised before Python 3.12
    version = told["Version"] if "Version" in told else "unknown"  # noqa: SIM401 - the same
    return Origin(distribution=name, version=version)


def _as_received(description: Description) -> Description:
    """Give a description as the parent will decode it; raise ValidationError where a plugin's part of it cannot be."""
    return msgspec.json.decode(msgspec.json.encode(description), type=Description)


def _finite(options: dict[str, Option]) -> dict[str, Option]:
    for name, value in options.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise msgspec.ValidationError(f"Expected a finite number - at `$.{name}`")
    return options


def _outside(head: str, attribute: str, name: str, flag: str) -> Entry:
    """Resolve `./file.py:Name` or `module:Name`."""
    if not head or not all(part.isidentifier() for part in attribute.split(".")):
        raise UsageError(f"{flag}: {name!r} does not name an object; write ./file.py:Name or package.module:Name")
    if not head.endswith(".py"):
        return Entry(name=name, target=name, origin=Origin(path=head))
    path = _existing_file(head, flag)
    return Entry(name=attribute, target=f"{path}:{attribute}", origin=Origin(path=str(path)))


def _existing_file(text: str, flag: str) -> Path:
    try:
        path = Path(text).expanduser().resolve()
        found = path.is_file()
    except (OSError, RuntimeError, ValueError):  # longer than a path may be, the home of nobody, a NUL
        found = False
    if not found:
        raise UsageError(f"{flag}: there is no file {text!r}; give the path from here, as ./file.py:Name")
    if not is_text(str(path)):
        raise UsageError(f"{flag}: {str(path)!r} is not UTF-8, and a record could not name it; rename it")
    return path


def _import_file(path: Path) -> ModuleType:
    """Import a file under a name that no installed module has; what lies beside it can be imported too."""
    name = f"attnbench_file_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]  # as import does: the next import fails with the same reason
        raise
    return module


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
            return "|".join(_type_name(each) for each in types)
        case _:
            return type(kind).__name__.removesuffix("Type").lower()


def _meaning(kind: msgspec.inspect.Type) -> str:
    if isinstance(kind, msgspec.inspect.Metadata):
        return str((kind.extra_json_schema or {}).get("description", ""))
    return ""


class TaskDescription(Struct, frozen=True, kw_only=True):
    summary: str = ""
    origin: Origin = Origin()
    failure: str = ""
    mistake: str = ""
