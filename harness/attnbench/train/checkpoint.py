"""The file of a training: how far it is while it is under way, and its best weights when it is over.

One line with a checksum, since torch's own format does not notice a flipped bit, then what torch.save writes.
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
_SHARE = 0.02  # of a training's time that may go into writing
_MAGIC = b"attnbench checkpoint 1"


class Resumable(Protocol):
    """What can be put down and taken up again: a Trainer."""

    def state(self) -> dict[str, Any]:
        """Give what there is, as tensors and plain values."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        ...


class Checkpoint:
    """Keeps a job's training in a file. What goes wrong with that is a fact, and never the training's end."""

    def __init__(self, path: Path, job: Job, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.path, self.job, self.clock = path, job, clock
        self.facts = dict[str, Option]()
        self._next_s = clock() + EVERY_S

    def resume(self, training: Resumable) -> None:
        """Take a training up where the file has it; a file that is damaged, or another job's, is left aside."""
        if not self.path.exists():
            return
        fresh = copy.deepcopy(training.state())
        try:
            state = _state_of(self.job, self.path)
            training.restore(state)
        except Exception as error:
            training.restore(fresh)
            self.facts["checkpoint"] = f"it could not be read ({error}), and training began anew"
        else:
            self.facts["resumed_at"] = state["steps"]

    def offer(self, training: Resumable, *, at_once: bool) -> None:
        """Write a training down if it has been some seconds, or `at_once`."""
        if not at_once and self.clock() < self._next_s:
            return
        began_s = self.clock()
        try:
            self.path.parent.mkdir(exist_ok=True)
            replace_file(self.path, written(self.job, training.state()))
        except OSError as error:
            self.facts["checkpoint"] = f"it could not be written ({error.strerror})"
        ended_s = self.clock()
        self._next_s = ended_s + max(EVERY_S, (ended_s - began_s) / _SHARE)

    def remove(self) -> None:
        """Take the file away, and what a writer that was killed left beside it."""
        for path in (self.path, *self.path.parent.glob(f".{self.path.name}.*")):
            path.unlink(missing_ok=True)


def written(job: Job, state: dict[str, Any]) -> bytes:
    """Write a job and the state of its training."""
    stream = io.BytesIO()
    torch.save({"job": msgspec.json.encode(job).decode(), "state": state}, stream)
    data = stream.getvalue()
    return b"%s %08x\n%s" % (_MAGIC, zlib.crc32(data), data)


def read(path: Path) -> tuple[Job, dict[str, Any]]:
    """Read a file's job and the state of its training, tensors on the CPU.

    Raises ValueError where the file is damaged, and OSError where it cannot be read. Nothing in it is executed.
    """
    head, _, data = path.read_bytes().partition(b"\n")
    if head != b"%s %08x" % (_MAGIC, zlib.crc32(data)):
        raise ValueError("its checksum is not that of its content")
    held = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return msgspec.json.decode(held["job"], type=Job), held["state"]


def _state_of(job: Job, path: Path) -> dict[str, Any]:
    found, state = read(path)
    if found.key != job.key:
        raise ValueError(f"it is of another job, {found.key}")
    return state
