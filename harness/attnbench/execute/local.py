"""Run jobs on this machine, each in a fresh process; timed jobs alone, training jobs side by side."""

import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from attnbench.contracts.errors import UsageError
from attnbench.contracts.record import Allocator, Job, Outcome
from attnbench.execute import limits
from attnbench.execute.children import Ended, ForkServer, Heard, ServerLost
from attnbench.execute.events import Event, Finished, Progressed, Started
from attnbench.execute.executor import NoAnswer
from attnbench.execute.messages import Perform, Question
from attnbench.execute.spawn import Spawner
from attnbench.store import checkpoint_path

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


class _Running(Struct, kw_only=True):
    job: Job
    started_s: float
    started: float
    oom_kills: int
    beside: int = 0  # how many others ran at the same time, at most


class LocalExecutor:
    """Forks a child for each job from a server that has torch imported; each round has a server of its own.

    `slots` training jobs run at a time; `memory_bytes` bounds a job (default, on the CPU: what the machine can spare).
    `spawn` starts a new interpreter for each job instead: where fork is unsafe, and slower by an import of torch.
    """

    def __init__(self, *, slots: int = 1, memory_bytes: int | None = None, spawn: bool = not FORKS) -> None:
        self.slots, self.memory_bytes, self.spawn = slots, memory_bytes, spawn
        self._server: ForkServer | Spawner | None = None
        self._server_key: tuple[int, Allocator] | None = None
        self._running: dict[int, _Running] = {}

    def ask(self, question: Question, kind: type[T]) -> T:
        """Answer one question that is no job, in a child of its own; NoAnswer where that breaks."""
        name = self._asked(question, timeout_s=_ASK_TIMEOUT_S, key=self._server_key or (1, "default"))
        assert self._server is not None
        while True:
            try:
                events = self._server.events()
            except ServerLost as loss:
                self.close()
                raise NoAnswer(f"was lost with the server that forked it: {loss}") from loss
            for event in events:
                if isinstance(event, Ended) and event.id == name:
                    return _decoded(event, kind)

    def run(self, jobs: Iterable[Job], *, folder: Path | None = None) -> Iterator[Event]:
        """Work through jobs in their order, and yield what happens. A job is taken only when there is room for it.

        Trainings leave their checkpoints in the run's `folder`, and go on from those that are there.
        """
        for job in jobs:
            while not self._room_for(job):
                yield from self._step()
            failed = self._start(job, folder)
            yield Started(job=job)
            if failed is not None:
                yield failed
            while self._running and job.timed:  # the next job is taken, and perhaps skipped, when nothing is timed
                yield from self._step()
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
        alike = all(_key(other.job) == _key(job) for other in self._running.values())
        return alike and _shares(job) and len(self._running) < self.slots

    def _start(self, job: Job, folder: Path | None) -> Finished | None:
        """Start a job's process; where even a new server is lost, give the job's end instead."""
        memory = self.memory_bytes
        if memory is None and job.case.device == "cpu":
            memory = limits.available_bytes()
        share = memory // self.slots if memory is not None and _shares(job) else memory
        running = _Running(job=job, started_s=time.time(), started=time.monotonic(), oom_kills=limits.oom_kills())
        kept = str(checkpoint_path(folder, job)) if folder and job.probe.kind == "accuracy" else ""
        question = Perform(job=job, memory_bytes=share, checkpoint=kept)
        try:
            self._running[self._asked(question, timeout_s=job.protocol.timeout_s, key=_key(job))] = running
            for each in self._running.values():
                each.beside = max(each.beside, len(self._running) - 1)
        except ServerLost as loss:
            return Finished(job=job, outcome=_lost(loss), started_s=running.started_s, seconds=0.0)
        return None

    def _asked(self, question: Question, *, timeout_s: float, key: tuple[int, Allocator]) -> int:
        """Start a child on the server of this key. One that was lost while it was idle is replaced, once."""
        try:
            server = self._server if self._server is not None and self._server_key == key else self._serve(key)
            return server.ask(question, timeout_s=timeout_s)
        except ServerLost:
            return self._serve(key).ask(question, timeout_s=timeout_s)

    def _step(self) -> Iterator[Event]:
        assert self._server is not None
        try:
            events = self._server.events()
        except ServerLost as loss:
            yield from [self._finish(name, _lost(loss)) for name in list(self._running)]
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
        if running.beside:  # its seconds are those of a machine that was shared
            outcome = replace(outcome, facts={**outcome.facts, "trained_beside": running.beside})
        return Finished(job=running.job, outcome=outcome, started_s=running.started_s, seconds=seconds)

    def _serve(self, key: tuple[int, Allocator]) -> ForkServer | Spawner:
        self.close()
        kind = Spawner if self.spawn else ForkServer
        self._server, self._server_key = kind(_ALLOCATOR_SETTINGS[key[1]]), key
        return self._server


def _key(job: Job) -> tuple[int, Allocator]:
    """Name the server that a job is forked from: a timed round has one of its own."""
    return job.round if job.timed else 0, job.protocol.allocator


def _shares(job: Job) -> bool:
    """Tell whether a job may run beside others: training on the CPU, where each has a core. A GPU trains one model."""
    return not job.timed and job.case.device == "cpu"


def _lost(loss: ServerLost) -> Outcome:
    return Outcome(status="crash", detail=f"the server that forks the jobs was lost: {loss}")


def _decoded(event: Ended, kind: type[T]) -> T:
    if event.answer is None:
        raise NoAnswer(_how_it_ended(event))
    if event.answer.mistake:
        raise UsageError(event.answer.mistake)
    return msgspec.json.decode(event.answer.answer, type=kind)


def _outcome(event: Ended, running: _Running) -> Outcome:
    """Give a child's own outcome, or say what became of a child that gave none."""
    if event.answer is not None:
        own = msgspec.json.decode(event.answer.answer, type=Outcome)
        return own if own.status == "ok" else replace(own, log=event.log + own.log)
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
        return f"ended by {_signal_name(-event.exit_code)} without an answer"
    return f"exited with code {event.exit_code} without an answer"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has none
        return f"signal {number}"
