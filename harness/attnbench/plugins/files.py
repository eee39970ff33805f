"""The import of a plugin's file: by itself, or as a module of the package that it lies in. For child processes only."""

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from attnbench.plugins.place import Place
from attnbench.plugins.sources import watched

_ROOT_HAS = (".git", "pyproject.toml", "setup.py", "setup.cfg")


def place_of_file(path: Path) -> Place:
    """Return where the files of a plugin's file lie: in its repository, else in its package, else beside it."""
    return Place(path, folder=_repository(path) or _package(path)[0])


def import_file(path: Path) -> ModuleType:
    """Import a file; modules beside it, beside its package and at its repository's root can be imported too.

    A file in a folder with `__init__.py` is imported as a module of that package, so that relative imports work.
    """
    folder, name = _package(path)
    for place in dict.fromkeys((path.parent, folder, _repository(path))):
        if place is not None and str(place) not in sys.path:
            sys.path.append(str(place))
    if "." in name:
        _import_package(folder / name.partition(".")[0], name)
        return importlib.import_module(name)
    return _import_alone(path)


def _package(path: Path) -> tuple[Path, str]:
    """Return the folder that holds a file's outermost package, and the file's module name from there."""
    folder, name = path.parent, path.stem
    while (folder / "__init__.py").is_file() and folder.name.isidentifier():
        folder, name = folder.parent, f"{folder.name}.{name}"
    return folder, name


def _repository(path: Path) -> Path | None:
    return next((folder for folder in path.parents if any((folder / name).exists() for name in _ROOT_HAS)), None)


def _import_package(folder: Path, module: str) -> None:
    """Import the package in a folder. Raises ImportError if one of that name is Python's own, or imported already."""
    name, init = folder.name, folder / "__init__.py"
    loaded = sys.modules.get(name)
    is_other = loaded is not None and Path(getattr(loaded, "__file__", None) or "").resolve() != init
    if loaded is None and name not in sys.stdlib_module_names:
        _execute(name, init, search=[str(folder)])
    elif is_other or loaded is None:
        raise ImportError(f"{module} lies in {folder}, but another package is called {name!r}; rename the folder")


def _import_alone(path: Path) -> ModuleType:
    """Import a file under a name that no installed module has."""
    name = f"attnbench_file_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    try:
        return _execute(name, path)
    except ImportError as error:
        if "no known parent package" in str(error):
            raise ImportError(f"{path.name} has relative imports; add an __init__.py to its folder") from error
        raise


def _execute(name: str, path: Path, *, search: list[str] | None = None) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=search)
    assert spec is not None
    assert spec.loader is not None
    if (watch := watched()) is not None:
        watch.note_module(spec)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]  # as `import` does, so that the next import fails with the same reason
        raise
    return module
