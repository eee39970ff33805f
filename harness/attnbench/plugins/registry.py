"""Where plugins are found: by entry-point name, `./file.py:Name` or `module:Name`; none is imported until it is used.

The parent process resolves names to entries. Only a child calls `load`, which imports the plugin.
"""

import hashlib
import importlib
import importlib.util
import sys
from importlib.metadata import Distribution, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from msgspec import Struct

from attnbench.contracts.errors import UsageError, is_text, suggestion
from attnbench.contracts.record import Origin

Group = Literal["variants", "tasks", "suites", "papers"]


class Entry(Struct, frozen=True, kw_only=True):
    """A plugin that is known by name and not yet imported; `target` is `module:Name` or `/path/file.py:Name`."""

    name: str
    target: str
    origin: Origin


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
    """Give the path of a file that an entry point names as `package:file`, without importing the package.

    An entry point holds no slash: `package:folder.file.toml` is folder/file.toml, unless there is a file of that name.
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


def _installed_by(distribution: Distribution) -> Origin:
    """Name a distribution; one whose metadata is lost still has plugins, and no name."""
    told = distribution.metadata
    name = told["Name"] if "Name" in told else "unknown"  # noqa: SIM401 - no `get` is promised before Python 3.12
    version = told["Version"] if "Version" in told else "unknown"  # noqa: SIM401 - the same
    return Origin(distribution=name, version=version)


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
