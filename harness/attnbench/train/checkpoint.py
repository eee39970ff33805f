"""Checkpoints of a training: its state while it is in progress, and its best weights when it is over.

A file is one line with a checksum, as torch's format does not detect a flipped bit, and what torch.save writes.
"""

import copy
import io
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec
import torch

from attnbench.contracts.case import Option
from attnbench.contracts.record import Job
from attnbench.store.files import replace_file

EVERY_S = 5.0
_SHARE = 0.02  # of a training's time, the most that is spent on writing
_MAGIC = b"attnbench checkpoint 1"


class Resumable(Protocol):
    """A training whose state can be stored and restored: a Trainer."""

    def state(self) -> dict[str, Any]:
        """Return the state as tensors and plain values."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        ...


class Checkpoint:
    """The checkpoint file of a job. A failure to read or write it becomes a fact, and does not end the training."""

    def __init__(self, path: Path, job: Job, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.path, self.job, self.clock = path, job, clock
        self.facts = dict[str, Option]()
        self._next_s = clock() + EVERY_S

    def resume(self, training: Resumable) -> None:
        """Restore a training from the file, if it exists; a file that is damaged, or another job's, is ignored."""
        if not self.path.exists():
            return
        initial = copy.deepcopy(training.state())
        try:
            state = _state_of(self.job, self.path)
            training.restore(state)
        except Exception as error:
            training.restore(initial)
            self.facts["checkpoint"] = f"it could not be read ({error}), and training began anew"
        else:
            self.facts["resumed_at"] = state["steps"]

    def offer(self, training: Resumable, *, at_once: bool) -> None:
        """Write the training's state if the last write was some seconds ago, or `at_once`."""
        if not at_once and self.clock() < self._next_s:
            return
        began_s = self.clock()
        try:
            self.path.parent.mkdir(exist_ok=True)
            replace_file(self.path, encode(self.job, training.state()))
        except OSError as error:
            self.facts["checkpoint"] = f"it could not be written ({error.strerror})"
        ended_s = self.clock()
        self._next_s = ended_s + max(EVERY_S, (ended_s - began_s) / _SHARE)

    def remove(self) -> None:
        """Remove the file, and temporary files that a killed writer left beside it."""
        for path in (self.path, *self.path.parent.glob(f".{self.path.name}.*")):
            path.unlink(missing_ok=True)


def encode(job: Job, state: dict[str, Any]) -> bytes:
    """Return the content of a checkpoint file."""
    stream = io.BytesIO()
    torch.save({"job": msgspec.json.encode(job).decode(), "state": state}, stream)
    data = stream.getvalue()
    return b"%s %08x\n%s" % (_MAGIC, zlib.crc32(data), data)


def is_checkpoint(path: Path) -> bool:
    """Return whether a file exists and begins as a checkpoint does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def read(path: Path) -> tuple[Job, dict[str, Any]]:
    """Return a file's job and the state of its training, tensors on the CPU. Nothing in the file is executed.

    Raises ValueError if the file is damaged, OSError if it cannot be read.
    """
    head, _, data = path.read_bytes().partition(b"\n")
    if head != b"%s %08x" % (_MAGIC, zlib.crc32(data)):
        raise ValueError("its checksum is not that of its content")
    content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return msgspec.json.decode(content["job"], type=Job), content["state"]


def _state_of(job: Job, path: Path) -> dict[str, Any]:
    stored, state = read(path)
    if stored.key != job.key:
        raise ValueError(f"it is of another job, {stored.key}")
    return state
