"""Standard output and error that outlive their readers: whoever goes away ends nothing, what takes no more is told."""

import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import msgspec

from attnbench.contracts.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class OutputLost(Exception):  # noqa: N818 - it names what became of the output
    """Standard output takes no more (a full disk, say), and what was asked for cannot be given. Exit code 1."""


def hold() -> None:
    """Put streams that bear a lost reader in the place of standard output and error, also where they are closed."""
    for descriptor in (0, 1, 2):
        _open_if_closed(descriptor)
    sys.stdout = _bearing(sys.stdout, 1, vital=True)
    sys.stderr = _bearing(sys.stderr, 2, vital=False)


def emit(data: bytes | str) -> None:
    """Write a document for programs to standard output: bytes as they are, text as UTF-8 in whatever locale."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data)


def deliver(written: bytes | str, output: Path | None) -> None:
    """Write a document to the file that was named, else to standard output. Raises UsageError for the file."""
    if output is None:
        emit(written)
        return
    data = written.encode("utf-8", "backslashreplace") if isinstance(written, str) else written
    try:
        output.write_bytes(data)
    except OSError as error:
        raise UsageError(f"--output: {output} cannot be written ({error.strerror}); name another file") from None


def emit_json(value: object) -> None:
    """Write one JSON document and a line end to standard output."""
    emit(msgspec.json.encode(value) + b"\n")


class _Descriptor(io.FileIO):
    """The bytes' way out. One that was lost leads nowhere, so that neither what follows nor Python's last flush fails.

    That nobody reads is no failure. Where `vital`, anything else is: OutputLost.
    """

    def __init__(self, descriptor: int, *, vital: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.vital = vital

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            _lead_nowhere(self.fileno())
            if self.vital and not isinstance(error, BrokenPipeError):
                raise OutputLost(f"standard output cannot be written: {error.strerror}") from None
            return memoryview(data).nbytes


def _bearing(old: TextIO | None, descriptor: int, *, vital: bool) -> TextIO:
    """Wrap a descriptor as Python had; a stream that is none (a Windows console, a test's) is left alone."""
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
    """Take the place of a closed descriptor, before a file that is opened later gets its number, and our words."""
    try:
        os.fstat(descriptor)
    except OSError:
        _lead_nowhere(descriptor)


def _lead_nowhere(descriptor: int) -> None:
    """Give a descriptor somewhere to go, and processes that are started later as well."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere == descriptor:
        os.set_inheritable(descriptor, True)
    else:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
