"""Standard output and error that survive a lost reader: a closed pipe ends nothing, a full disk is reported."""

import io
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import msgspec

from attnbench.contracts.errors import UsageError
from attnbench.contracts.text import plain
from attnbench.store.files import write_output

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from attnbench.runs import Run


class OutputLost(Exception):  # noqa: N818 - it names what became of the output
    """Standard output cannot be written (a full disk, say), so the requested output is lost. Exit code 1."""


def protect() -> None:
    """Replace standard output and error, even closed ones, by streams that survive a lost reader."""
    for descriptor in (0, 1, 2):
        _open_if_closed(descriptor)
    sys.stdout = _protected(sys.stdout, 1, vital=True)
    sys.stderr = _protected(sys.stderr, 2, vital=False)


def emit(data: bytes | str) -> None:
    """Write a document for programs to standard output: bytes as they are, text as UTF-8 in any locale."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data)


def deliver(written: bytes | str, output: Path | None) -> None:
    """Write a document to a file, or to standard output if none is named. Raises UsageError for the file."""
    if output is None:
        emit(written)
        return
    data = written.encode("utf-8", "backslashreplace") if isinstance(written, str) else written
    try:
        write_output(output, data)
    except OSError as error:
        raise UsageError(f"--output: {output} cannot be written ({error.strerror}); name another file") from None


def warn_of_damage(runs: Iterable["Run"]) -> None:
    """Say on standard error which lines of stored runs are left out as broken."""
    for run in runs:
        if damage := run.damage():
            print(plain(damage), file=sys.stderr)


def emit_json(value: object) -> None:
    """Write one JSON document and a line end to standard output."""
    emit(msgspec.json.encode(value) + b"\n")


class _Descriptor(io.FileIO):
    """A descriptor that is redirected to the null device once writing to it fails, so that later writes succeed.

    A lost reader is no failure. If `vital`, any other error raises OutputLost.
    """

    def __init__(self, descriptor: int, *, vital: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.vital = vital

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            _discard(self.fileno())
            if self.vital and not isinstance(error, BrokenPipeError):
                raise OutputLost(f"standard output cannot be written: {error.strerror}") from None
            return memoryview(data).nbytes


def _protected(old: TextIO | None, descriptor: int, *, vital: bool) -> TextIO:
    """Wrap a descriptor as Python does; a stream without one (a Windows console, a test's) is returned as it is."""
    if old is None:
        return io.TextIOWrapper(io.BufferedWriter(_Descriptor(descriptor, vital=vital)), encoding="utf-8")
    raw = getattr(old, "buffer", None)
    if not isinstance(old, io.TextIOWrapper) or not isinstance(getattr(raw, "raw", raw), io.FileIO):
        return old
    return io.TextIOWrapper(
        io.BufferedWriter(_Descriptor(descriptor, vital=vital)),
        encoding=old.encoding,
        errors="backslashreplace",
        line_buffering=old.line_buffering,
        write_through=old.write_through,
    )


def _open_if_closed(descriptor: int) -> None:
    """Open the null device in place of a closed descriptor, before a later file takes its number and our output."""
    try:
        os.fstat(descriptor)
    except OSError:
        _discard(descriptor)


def _discard(descriptor: int) -> None:
    """Redirect a descriptor to the null device, for child processes as well."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere == descriptor:
        os.set_inheritable(descriptor, True)
    else:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
