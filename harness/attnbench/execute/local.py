"""Run jobs on this machine, each in a fresh process; timed jobs alone, training jobs side by side."""

import signal
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import msgspec
from msgspec import Struct

from attnbench.errors import UsageError
from attnbench.execute import limits
from attnbench.execute.children import Ended, ForkServer, Heard, ServerLost
from attnbench.execute.events import Event, Finished, Progressed, Started
from attnbench.execute.messages import Perform, Question
from attnbench.execute.spawn import Spawner
from attnbench.record import Allocator, Job, Outcome

T = TypeVar("T")

# Settings of the C library's allocator are read when a process starts: a server each.
_ALLOCATOR_SETTINGS: dict[Allocator, dict[str, str]] = {
    "default": {},
    "retained": {
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
        "MALLOC_TOP_PAD_": str(256 << 20),
    },
}
_ASK_TIMEOUT_S = 120.0
FORKS = sys.platform == "linux"


class _Running(Struct, frozen=True, kw_only=True):
    job: Job
    started_s: float
    started: float
    oom_kills: int


class LocalExecutor:
    """Forks a child for each job from a server that has torch imported; each round has a server of its own.

    `slots` training jobs run at a time; `memory_bytes` bounds a CPU job (default: what the machine has to spare).
    `spawn` starts a new interpreter for each job instead: where fork is unsafe, and slower by an import of torch.
    """

    def __init__(self, *, slots: int = 1, memory_bytes: int | None = None, spawn: bool = not FORKS) -> None:
        self.slots, self.memory_bytes, self.spawn = slots, memory_bytes, spawn
        self._server: ForkServer | Spawner | None = None
        self._server_key: tuple[int, Allocator] | None = None
        self._running: dict[int, _Running] = {}

    def ask(self, question: Question, kind: type[T]) -> T:
        """Answer one question that is no job, in a child of its own. Raises UsageError as the child did."""
        server = self._server or self._serve((0, "default"))
        name = server.ask(question, timeout_s=_ASK_TIMEOUT_S)
        while True:
            for event in server.events():
                if isinstance(event, Ended) and event.id == name:
                    return _decoded(event, kind)

    def run(self, jobs: Iterable[Job]) -> Iterator[Event]:
        """Work through jobs in their order, and yield what happens. A job is taken only when there is room for it."""
        for job in jobs:
            while not self._room_for(job):
                yield from self._step()
            self._start(job)
            yield Started(job=job)
        while self._running:
            yield from self._step()

    def close(self) -> None:
        """End the server, and with it every process that it started."""
        self._running.clear()
        if self._server:
            self._server.close()
        self._server, self._server_key = None, None

    def _room_for(self, job: Job) -> bool:
        if not self._running:
            return True
        alike = all(_key(other.job) == _key(job) and not other.job.timed for other in self._running.values())
        return alike and not job.timed and len(self._running) < self.slots

    def _start(self, job: Job) -> None:
        server = self._server if self._server_key == _key(job) and self._server else self._serve(_key(job))
        memory = limits.available_bytes() if self.memory_bytes is None else self.memory_bytes
        share = memory if job.timed or memory is None else memory // self.slots
        running = _Running(job=job, started_s=time.time(), started=time.monotonic(), oom_kills=limits.oom_kills())
        question = Perform(job=job, memory_bytes=share)
        self._running[server.ask(question, timeout_s=job.protocol.timeout_s)] = running

    def _step(self) -> Iterator[Event]:
        assert self._server is not None
        try:
            events = self._server.events()
        except ServerLost as loss:
            lost = Outcome(status="crash", detail=f"the server that forks the jobs was lost: {loss}")
            yield from [self._finish(name, lost) for name in list(self._running)]
            self.close()
            return
        for event in events:
            if isinstance(event, Heard):
                yield Progressed(job=self._running[event.id].job, text=event.text)
            else:
                yield self._finish(event.id, _outcome(event, self._running[event.id]))

    def _finish(self, name: int, outcome: Outcome) -> Finished:
        running = self._running.pop(name)
        seconds = time.monotonic() - running.started
        return Finished(job=running.job, outcome=outcome, started_s=running.started_s, seconds=seconds)

    def _serve(self, key: tuple[int, Allocator]) -> ForkServer | Spawner:
        self.close()
        kind = Spawner if self.spawn else ForkServer
        self._server, self._server_key = kind(_ALLOCATOR_SETTINGS[key[1]]), key
        return self._server


def _key(job: Job) -> tuple[int, Allocator]:
    return job.round, job.protocol.allocator


def _decoded(event: Ended, kind: type[T]) -> T:
    if event.answer is None:
        raise RuntimeError(f"{_how_it_ended(event)}\n{event.log}")
    if event.answer.mistake:
        raise UsageError(event.answer.mistake)
    return msgspec.json.decode(event.answer.answer, type=kind)


def _outcome(event: Ended, running: _Running) -> Outcome:
    """Give a child's own outcome, or say what became of a child that gave none."""
    if event.answer is not None:
        own = msgspec.json.decode(event.answer.answer, type=Outcome)
        return own if own.status == "ok" else msgspec.structs.replace(own, log=event.log + own.log)
    if event.silent:
        patience = running.job.protocol.timeout_s
        return Outcome(status="timeout", detail=f"no sign of life for {patience:g} s (--timeout)", log=event.log)
    if event.exit_code == -signal.SIGKILL and limits.oom_kills() > running.oom_kills:
        return Outcome(status="oom_host", detail="the kernel ended it: the machine's memory was full", log=event.log)
    return Outcome(status="crash", detail=_how_it_ended(event), log=event.log)


def _how_it_ended(event: Ended) -> str:
    if event.silent:
        return "gave no sign of life and was ended"
    if event.exit_code < 0:
        return f"ended by {signal.Signals(-event.exit_code).name} without an answer"
    return f"exited with code {event.exit_code} without an answer"
