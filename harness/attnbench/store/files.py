"""Durable writes: a file is written whole or not at all, and on the disk before a call returns."""

import os
import sys
from pathlib import Path


def write_all(descriptor: int, data: bytes) -> None:
    """Write all data, however little the system takes at a time, and wait until it is on the disk."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    os.fsync(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file under a temporary name and rename it, so that no reader ever sees part of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("wb", buffering=0) as file:
        try:
            write_all(file.fileno(), data)
            draft.replace(path)
        except BaseException:
            draft.unlink()
            raise
    sync_folder(path.parent)


def write_output(path: Path, data: bytes) -> None:
    """Write a file that the user names: whole, or the old one stays. A link is followed; a device is written to."""
    target = path.resolve()
    if target.exists() and not target.is_file():
        target.write_bytes(data)
    else:
        replace_file(target, data)


def sync_folder(path: Path) -> None:
    """Wait until a folder's own entries are on the disk: a file's name is as easily lost as its content."""
    if sys.platform == "win32":  # folders cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
