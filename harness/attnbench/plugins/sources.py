"""The files that plugins execute and read in this process, hashed as they are loaded. For child processes only.

A module is compiled from the bytes that were hashed, whatever happens to its file meanwhile. A data file is hashed when
a plugin opens it, and once more at the end if it was written since. What Python does not open itself (a library that
maps a file into memory) goes unseen.
"""

import hashlib
import importlib.util
import inspect
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from attnbench.plugins.place import Place, is_personal

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_HASHED_BYTES = 64 << 20  # a job must not wait for gigabytes of weights to be hashed
_TICK_S = 2.0  # a compiled file names its source's time in whole seconds, so an edit within one would go unseen


class SourceChanged(Exception):  # noqa: N818 - it names what happened
    """A file of a plugin is no longer what it was when the run began."""


class Sources:
    """The files read by plugins so far, with their hashes; `expected` are those that earlier processes have seen.

    `changed` are those that are no longer what they were, as they are now; one that is gone has an empty hash.
    """

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self.expected: Mapping[str, str] = {}
        self._places: dict[str, Place] = {}
        self._read_by: dict[str, set[str]] = {}
        self._at_import: set[str] = set()
        self._code: set[str] = set()  # names of source files as frames have them
        self._data: dict[str, tuple[int, int, int]] = {}
        self._written: set[str] = set()
        self.changed: dict[str, str] = {}
        self._loading: list[set[str]] = []
        self._busy = False

    @contextmanager
    def loading(self, target: str, place: Place | None) -> Iterator[None]:
        """Attribute what is read meanwhile to a plugin's import. Raises SourceChanged."""
        if place is None:
            yield
            return
        self._places[target] = place
        read = self._read_by.setdefault(target, set())
        self._loading.append(read)
        try:
            yield
        except BaseException:
            gone = (path for path in self.expected if place.owns(file := Path(path)) and not file.is_file())
            self.changed |= dict.fromkeys(gone, "")
            raise
        finally:
            module = sys.modules.get(target.rpartition(":")[0])
            file = Path(getattr(module, "__file__", None) or place.file).resolve()
            if str(file) not in self.files and file.is_file():  # imported before this watch began
                self.note(file, file.read_bytes())
            read |= {str(file)} & self.files.keys()
            self._loading.pop()
        self.check()

    def hash_of(self, target: str) -> str:
        """Return the hash of what a plugin's import has read; empty if that was no file."""
        place, read = self._places.get(target), self._read_by.get(target)
        if place is None or not read:
            return ""
        named = sorted((Path(os.path.relpath(path, place.file.parent)).as_posix(), self.files[path]) for path in read)
        return hash_text("".join(f"{name}\0{content}\0" for name, content in named))

    def later(self) -> dict[str, str]:
        """Return the files that were read after the imports, with their hashes."""
        return {path: content for path, content in sorted(self.files.items()) if path not in self._at_import}

    def check(self) -> None:
        """Raise SourceChanged, naming the files, if any is not what was expected, or was written since it was read."""
        for path, signature in self._data.items():
            if _signature(path) != signature and (now := hash_file(path)) != self.files[path]:
                self.changed[path] = now
        if self.changed:
            raise SourceChanged(changed_sentence(self.changed))

    def note(self, file: Path, content: bytes | str) -> None:
        """Record a file that is executed or read, by its bytes or their hash."""
        path, digest = str(file), content if isinstance(content, str) else hashlib.sha256(content).hexdigest()[:16]
        self.files[path] = digest
        if self.expected.get(path, digest) != digest:
            self.changed[path] = digest
        if self._loading:
            self._loading[-1].add(path)
            self._at_import.add(path)

    def note_module(self, spec: ModuleSpec) -> None:
        """Have a plugin's own module compiled from the bytes that are hashed; hash the file of any other kind."""
        if not self._places or not spec.has_location or spec.origin is None:
            return
        file = Path(spec.origin).resolve()
        if not self._owns(file):
            return
        if type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path, self)
            self._code.add(spec.origin)
        elif file.is_file():
            self.note(file, hash_file(str(file)))

    def note_opened(self, name: object, flags: int) -> None:
        """Record a data file that a plugin opens to read; one that it writes is its product, not its source."""
        if self._busy or not self._places or not isinstance(name, str | bytes | os.PathLike):
            return
        self._busy = True
        try:
            if not (flags & _WRITES or self._asks()):
                return
            path = os.path.realpath(os.fsdecode(name))
            if flags & _WRITES:
                self._written.add(path)
                if self._data.pop(path, None):
                    del self.files[path]
            elif path not in self.files and path not in self._written and self._is_data(path):
                signature = _signature(path)
                self.note(Path(path), hash_file(path))
                self._data[path] = signature
        finally:
            self._busy = False

    def _owns(self, file: Path) -> bool:
        return any(place.owns(file) for place in self._places.values())

    def _is_data(self, path: str) -> bool:
        file = Path(path)
        return file.suffix != ".pyc" and file.is_file() and (self._owns(file) or is_personal(file))

    def _asks(self) -> bool:
        """Return whether a plugin's own code is being executed."""
        frame = inspect.currentframe()
        while frame is not None and frame.f_code.co_filename not in self._code:
            frame = frame.f_back
        return frame is not None


class _Loader(SourceFileLoader):
    """Compile a module from the bytes that are hashed, or take what was compiled from them."""

    def __init__(self, name: str, path: str, sources: Sources) -> None:
        super().__init__(name, path)
        self._sources, self._bytes = sources, b""

    def get_data(self, path: str) -> bytes:
        """Return a file's bytes; those of the source as they were hashed."""
        return self._bytes if path == self.path and self._bytes else super().get_data(path)

    def get_code(self, fullname: str) -> CodeType | None:
        """Return the module's code."""
        self._bytes = super().get_data(self.path)
        self._sources.note(Path(self.path).resolve(), self._bytes)
        if _may_be_cached(self.path):
            return super().get_code(fullname)
        code: CodeType = self.source_to_code(self._bytes, self.path)
        return code


class _Finder(MetaPathFinder):
    """Find modules as the other finders do, and let the sources take note of each."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find(fullname, path, target) if find else None
            if spec is not None:
                self._sources.note_module(spec)
                return spec
        return None


_watch: Sources | None = None


def watch(expected: Mapping[str, str] | None = None) -> Sources:
    """Begin to take note of what plugins read, once in a process."""
    global _watch  # noqa: PLW0603 - hooks are the process's own
    if _watch is None:
        _watch = Sources()
        sys.meta_path.insert(0, _Finder(_watch))
        sys.addaudithook(_heed(_watch))
    if expected is not None:
        _watch.expected = expected
    return _watch


def watched() -> Sources | None:
    """Return what takes note of plugins' files in this process; None where nothing does."""
    return _watch


def hash_text(text: str) -> str:
    """Return the hash of a text."""
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:16]


def hash_file(path: str) -> str:
    """Return the hash of a file's content, of a large one that of its size and time; empty if it cannot be read."""
    _, size, changed_ns = _signature(path)
    if size > _HASHED_BYTES:
        return hash_text(f"{size} {changed_ns}")
    with suppress(OSError), Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return ""


def _signature(path: str) -> tuple[int, int, int]:
    """Return what the file system says of a file's content."""
    with suppress(OSError):
        status = Path(path).stat()
        return status.st_ino, status.st_size, status.st_mtime_ns
    return 0, 0, 0


def _may_be_cached(path: str) -> bool:
    """Return whether what was compiled from a source file can be taken or kept: it names the source by its time alone.

    What was compiled too soon after an edit is removed; without that permission it is not used.
    """
    settled_s = Path(path).stat().st_mtime + _TICK_S
    if time.time() < settled_s:
        return False
    try:
        compiled = Path(importlib.util.cache_from_source(path))
        if compiled.stat().st_mtime < settled_s:
            compiled.unlink()
    except FileNotFoundError:
        return True
    except (OSError, NotImplementedError):
        return False
    return True


def _heed(sources: Sources) -> Callable[[str, tuple[Any, ...]], None]:
    def heed(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            with suppress(Exception):  # an exception would end the plugin's own call
                sources.note_opened(arguments[0], arguments[2])

    return heed


def changed_sentence(paths: Iterable[str]) -> str:
    """Return a sentence that names the files that changed."""
    return f"{', '.join(sorted(paths))} changed while the run was under way; --resume measures it again"


def differing(read: Mapping[str, str], known: dict[str, str]) -> set[str]:
    """Add files to those known, and return those that were known with another content."""
    return {path for path, content in read.items() if known.setdefault(path, content) != content}
