"""Plugins by entry-point name, `./file.py:Name` or `module:Name`; none is imported until it is used.

The parent process resolves names to entries. Only a child calls `load`, which imports the plugin.
"""

import importlib
import importlib.util
import re
from contextlib import nullcontext
from importlib.metadata import Distribution, entry_points
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from attnbench.contracts.errors import UsageError, is_text, suggestion
from attnbench.contracts.record import Origin
from attnbench.plugins.files import import_file, place_of_file
from attnbench.plugins.place import place_of
from attnbench.plugins.sources import watched

_WAYS = "./file.py:Name or package.module:Name"
_PATH = re.compile(r"[/\\]|\.py$")

Group = Literal["variants", "tasks", "suites", "metrics", "papers", "checkpoints", "inputs"]


class NoSuchObject(AttributeError):  # noqa: N818 - it says what is wrong
    """A plugin's module has no object of the name that was asked for."""


class Entry(Struct, frozen=True, kw_only=True):
    """A plugin's name and location, before its import; `target` is `module:Name` or `/path/file.py:Name`."""

    name: str
    target: str
    origin: Origin


def entries(group: Group) -> dict[str, tuple[Entry, ...]]:
    """Return the installed plugins of a group by name; a name that two distributions claim has two entries."""
    plugins: dict[str, list[Entry]] = {}
    for point in entry_points(group=f"attnbench.{group}"):
        origin = _origin_of(point.dist) if point.dist else Origin()
        plugins.setdefault(point.name, []).append(Entry(name=point.name, target=point.value, origin=origin))
    return {name: tuple(plugins[name]) for name in sorted(plugins)}


def find(name: str, group: Group, *, flag: str) -> Entry:
    """Resolve a name to its one entry, without importing the plugin.

    Raises UsageError naming `flag` for a name that is unknown or claimed twice, and for a file that does not exist.
    """
    module, colon, attribute = name.rpartition(":")
    if colon:
        return _uninstalled(name, module, attribute, flag=flag)
    plugins = entries(group)
    match plugins.get(name, ()):
        case ():
            hint = _hint_for_path(name) if _PATH.search(name) else suggestion(name, plugins)
            raise UsageError(f"{flag}: no {group.rstrip('s')} is called {name!r}; {hint}")
        case (entry,):
            return entry
        case claims:
            origins = " and ".join(f"{claim.origin} ({claim.target})" for claim in claims)
            raise UsageError(f"{flag}: {name!r} is claimed by {origins}; uninstall one, or name it as module:Name")


def load(target: str) -> Any:
    """Import a plugin's module and return the object that `target` names. For child processes only.

    Raises whatever the module raises, and NoSuchObject with the nearest name where it has no such object.
    """
    module, _, attribute = target.rpartition(":")
    is_file, watch = module.endswith(".py"), watched()
    place = None if watch is None else place_of_file(Path(module)) if is_file else place_of(module)
    with watch.loading(target, place) if watch is not None else nullcontext():
        value: Any = import_file(Path(module)) if is_file else importlib.import_module(module)
    for part in attribute.split("."):
        if not hasattr(value, part):
            public = [name for name in dir(value) if not name.startswith("_")]
            raise NoSuchObject(f"{module} has no {attribute!r}; {suggestion(part, public)}")
        value = getattr(value, part)
    return value


def resource(entry: Entry) -> Path:
    """Return the path of a file that an entry point names as `package:file`, without importing the package.

    An entry point cannot hold a slash: `package:folder.file.toml` is folder/file.toml, unless a file has that name.
    """
    package, _, name = entry.target.partition(":")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(
            f"{entry.name!r} names {entry.target!r}, but {package!r} is no installed package; reinstall it"
        )
    folder = Path(spec.submodule_search_locations[0])
    *folders, file, suffix = name.split(".") if "." in name else (name, "")
    return folder / name if not folders or (folder / name).exists() else folder.joinpath(*folders, f"{file}.{suffix}")


def _origin_of(distribution: Distribution) -> Origin:
    """Return a distribution's name and version; one whose metadata is lost still has plugins."""
    metadata = distribution.metadata
    name = metadata["Name"] if "Name" in metadata else "unknown"  # noqa: SIM401 - no `get` before Python 3.12
    version = metadata["Version"] if "Version" in metadata else "unknown"  # noqa: SIM401 - the same
    return Origin(distribution=name, version=version)


def _uninstalled(name: str, module: str, attribute: str, *, flag: str) -> Entry:
    """Resolve `./file.py:Name` or `module:Name`."""
    is_file = module.endswith(".py")
    if not module or not all(part.isidentifier() for part in attribute.split(".")):
        raise UsageError(f"{flag}: {name!r} does not name an object; write {_WAYS}")
    if not is_file and not all(part.isidentifier() for part in module.split(".")):
        raise UsageError(f"{flag}: {name!r} names neither a file that ends in .py nor a module; write {_WAYS}")
    if not is_file:
        return Entry(name=name, target=name, origin=Origin(path=module))
    path = _existing_file(module, flag)
    return Entry(name=attribute, target=f"{path}:{attribute}", origin=Origin(path=str(path)))


def _hint_for_path(name: str) -> str:
    if name.endswith(".py"):
        return f"{name} looks like a file: write {'' if '/' in name else './'}{name}:Name"
    return f"it looks like a path: write {_WAYS}, without commas, which separate names"


def _existing_file(text: str, flag: str) -> Path:
    try:
        path = Path(text).expanduser().resolve()
        exists = path.is_file()
    except (OSError, RuntimeError, ValueError):  # too long for a path, the home of an unknown user, a NUL
        exists = False
    if not exists:
        raise UsageError(f"{flag}: there is no file {text!r}; give the path from here, as ./file.py:Name")
    if not is_text(str(path)):
        raise UsageError(f"{flag}: {str(path)!r} is not UTF-8, and a record could not name it; rename it")
    return path
