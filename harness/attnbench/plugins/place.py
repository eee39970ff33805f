"""Where a plugin's own files lie, which installed packages, Python's library, caches and the harness are not."""

import importlib.util
import os
import sysconfig
import tempfile
from pathlib import Path

import attnbench

_INSTALLED = {"site-packages", "dist-packages"}
_LIBRARY = Path(sysconfig.get_path("stdlib")).resolve()
_HARNESS = Path(attnbench.__file__).resolve().parent
_SYSTEM = tuple(map(Path, ("/proc", "/sys", "/dev", "/etc", "/run", "/usr", "/var")))
_CACHES = (*map(Path, map(os.path.expanduser, ("~/.cache", "~/.triton"))), Path(tempfile.gettempdir()).resolve())


class Place:
    """Where a plugin's own files lie: `file` itself and what is below `folder`; hashes name them relative to `file`."""

    def __init__(self, file: Path, *, folder: Path | None = None) -> None:
        self.file, self.folder = file, folder or file.parent

    def owns(self, file: Path) -> bool:
        """Return whether a file is the plugin's own: not installed, of Python's library, a cache's or the harness's."""
        if file == self.file:
            return True
        if not file.is_relative_to(self.folder):
            return False
        if _INSTALLED & {self.folder.name, *file.relative_to(self.folder).parts}:
            return False
        inner = (other for other in (_LIBRARY, *_CACHES) if other != self.folder and other.is_relative_to(self.folder))
        return not any(file.is_relative_to(other) for other in (_HARNESS, *inner))


def is_personal(file: Path) -> bool:
    """Return whether a file outside a plugin's place is a user's own, and may change from one day to the next."""
    foreign = (*_SYSTEM, *_CACHES, _LIBRARY, _HARNESS)
    return not (_INSTALLED & {*file.parts} or any(file.is_relative_to(folder) for folder in foreign))


def place_of(module: str) -> Place | None:
    """Return where the files of a module lie, without importing it; None for what no file defines."""
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        try:
            spec = importlib.util.find_spec(".".join(parts[:depth]))
        except (ImportError, ValueError, AttributeError):
            return None
        if spec is None:
            return None
        if spec.has_location and spec.origin:
            return Place(Path(spec.origin).resolve())
    return None
