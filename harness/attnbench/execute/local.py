"""The local executor: each job in a fresh process, timed jobs alone, training jobs in parallel."""

import signal
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from attnbench.contracts.errors import UsageError
from attnbench.contracts.record import Allocator, Job, Outcome, Status
from attnbench.execute import answers, limits
from attnbench.execute.children import Exit, ServerLost
from attnbench.execute.executor import Event, Figures, Finished, NoAnswer, Progressed, Started, no_figures
from attnbench.execute.forkserver import ForkServer, signal_name
from attnbench.execute.messages import Bounded, Perform, Progress, Question
from attnbench.execute.spawn import Spawner
from attnbench.plugins import sources
from attnbench.plugins.exact import base_of
from attnbench.store import checkpoint_path

T = TypeVar("T")

# glibc's allocator reads its settings when a process starts, so each choice has a server of its own.
_ALLOCATOR_SETTINGS: dict[Allocator, dict[str, str]] = {
    "default": {},
    "retained": {
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
        "MALLOC_TOP_PAD_": str(256 << 20),
    },
}
_ASK_TIMEOUT_S = 120.0
_ASKED_AT_A_TIME = 8  # more than cores: a plugin that hangs must not hold up the others
FORKS = sys.platform == "linux"


class _Running(Struct, kw_only=True):
    job: Job
    question: Perform
    started_s: float = field(default_factory=time.time)
    started: float = field(default_factory=time.monotonic)
    oom_kills: int = field(default_factory=limits.oom_kills)
    beside: int = 0  # the largest number of other jobs that ran at the same time
    again: bool = False  # whether it is asked for the second time, as the server was lost before it began


class LocalExecutor:
    """Forks a child for each job from a server with torch imported; each round of timed jobs has a server of its own.

    Up to `slots` training jobs run in parallel. `memory_bytes` limits a job (default: on the CPU what the machine can
    spare, else none). With `spawn`, for systems where a fork is unsafe, each job starts a new interpreter instead, at
    the cost of importing torch.
    """

    def __init__(self, *, slots: int = 1, memory_bytes: int | None = None, spawn: bool = not FORKS) -> None:
        self.slots, self.memory_bytes, self.spawn = slots, memory_bytes, spawn
        self._server: ForkServer | Spawner | None = None
        self._key: tuple[int, Allocator] | None = None
        self._running: dict[int, _Running] = {}
        self.sources: dict[str, str] = {}
        self.import_timeout_s = _ASK_TIMEOUT_S

    def ask(self, question: Question, kind: type[T], *, timeout_s: float | None = None) -> T:
        """Return the answer to a question that is not a job, from a child of its own.

        Raises UsageError for the user's mistakes, and NoAnswer if the child fails.
        """
        question, killed_before = _bounded(question, self.memory_bytes), limits.oom_kills()
        try:
            exited = self._asked(question, timeout_s=timeout_s or _ASK_TIMEOUT_S)
        except ServerLost as loss:
            raise NoAnswer(f"was lost with the server that forked it, which {loss}") from loss
        return _value(exited, kind, killed_before)

    def _asked(self, question: Question, *, timeout_s: float, again: bool = False) -> Exit:
        """Return how the child that was asked ended; a server that is lost before the child begins is replaced once."""
        asked = self._ask(question, timeout_s=timeout_s, key=self._key or (1, "default"))
        assert self._server is not None
        try:
            while True:
                for child, message in self._server.receive():
                    if isinstance(message, Exit) and child == asked:
                        return message
        except ServerLost:
            begun = self._server.has_begun(asked)
            self.close()
            if begun or again:
                raise
        return self._asked(question, timeout_s=timeout_s, again=True)

    def ask_each(self, questions: Sequence[Question], kind: type[T], *, timeout_s: float) -> list[T | NoAnswer]:
        """Return the answers to questions in their order, or why there is none; several are asked at a time.

        Those asked of a server that is lost are asked again one by one, to tell which of them it was.
        """
        found: dict[int, T | NoAnswer] = {}
        waiting, alone = deque(range(len(questions))), list[int]()
        asked: dict[int, int] = {}  # numbers of questions by the ids of their children
        killed_before = limits.oom_kills()
        while waiting or asked:
            try:
                while waiting and len(asked) < _ASKED_AT_A_TIME:
                    question = _bounded(questions[waiting[0]], self.memory_bytes)
                    child = self._ask(question, timeout_s=timeout_s, key=self._key or (1, "default"))
                    asked[child] = waiting.popleft()
                assert self._server is not None
                for child, end in self._server.receive():
                    if isinstance(end, Exit) and child in asked:
                        found[asked.pop(child)] = _value_or_reason(end, kind, killed_before)
            except ServerLost:
                self.close()
                alone += asked.values() or [waiting.popleft()]
                asked.clear()
        for number in alone:
            try:
                found[number] = self.ask(questions[number], kind, timeout_s=timeout_s)
            except NoAnswer as end:
                found[number] = end
        return [found[number] for number in range(len(questions))]

    def run(self, jobs: Iterable[Job], *, folder: Path | None = None, figures: Figures = no_figures) -> Iterator[Event]:
        """Run jobs in order and yield their events; a job is taken from the iterable when it can start.

        Training jobs keep their checkpoints in the run's `folder`, and resume from those that exist. `figures` returns
        what a derived metric is computed from.
        """
        for job in jobs:
            while not self._room_for(job):
                yield from self._receive()
            failure = self._start(job, folder, figures(job))
            yield Started(job=job)
            if failure is not None:
                yield failure
            # Take no further job meanwhile: the iterable decides by the outcome whether it is to be skipped.
            while self._running and job.timed:
                yield from self._receive()
        while self._running:
            yield from self._receive()

    def close(self) -> None:
        """Terminate the server and every process that it started."""
        self._running.clear()
        if self._server:
            self._server.close()
        self._server, self._key = None, None

    def _room_for(self, job: Job) -> bool:
        if not self._running:
            return True
        same_server = all(_key(other.job) == _key(job) for other in self._running.values())
        return same_server and _is_parallel(job) and len(self._running) < self.slots

    def _start(self, job: Job, folder: Path | None, figures: dict[str, float]) -> Finished | None:
        """Start a job's process; if even a new server is lost, return the job's end."""
        memory = self.memory_bytes
        if memory is None and job.case.device == "cpu":
            memory = limits.available_bytes()
        share = memory // self.slots if memory is not None and _is_parallel(job) else memory
        keeper = base_of(job) or job
        checkpoint = str(checkpoint_path(folder, keeper)) if folder and keeper.probe.kind == "accuracy" else ""
        question = Perform(
            job=job,
            key=job.key,
            memory_bytes=share,
            checkpoint=checkpoint,
            figures=figures,
            sources=self.sources,
        )
        return self._send(_Running(job=job, question=question))

    def _send(self, running: _Running) -> Finished | None:
        job = running.job
        try:
            child = self._ask(running.question, timeout_s=job.protocol.timeout_s, key=_key(job))
        except ServerLost as loss:
            return Finished(job=job, outcome=_lost(loss, running), started_s=running.started_s, seconds=0.0)
        self._running[child] = running
        for other in self._running.values():
            other.beside = max(other.beside, len(self._running) - 1)
        return None

    def _ask(self, question: Question, *, timeout_s: float, key: tuple[int, Allocator]) -> int:
        """Start a child on the server of this key and return its id; one that is lost as it starts is replaced once."""
        server = self._server if self._key == key else None
        if server is None:
            try:
                server = self._start_server(key)
            except ServerLost:
                server = self._start_server(key)
        return server.ask(question, timeout_s=timeout_s)

    def _receive(self) -> Iterator[Event]:
        assert self._server is not None
        try:
            messages = self._server.receive()
        except ServerLost as loss:
            yield from self._go_on_without_server(loss)
            return
        for child, message in messages:
            if isinstance(message, Progress):
                yield Progressed(job=self._running[child].job, text=message.text)
            else:
                running = self._running.pop(child)
                yield self._finished(running, _outcome(message, running))

    def _go_on_without_server(self, loss: ServerLost) -> Iterator[Event]:
        """End the jobs that had begun; the others are innocent, and begin once more on another server."""
        assert self._server is not None
        lost = [(running, self._server.has_begun(child)) for child, running in self._running.items()]
        self.close()
        for running, begun in lost:
            if begun or running.again:
                yield self._finished(running, _lost(loss, running))
            else:
                running.again = True
                if (failure := self._send(running)) is not None:
                    yield failure

    def _finished(self, running: _Running, outcome: Outcome) -> Finished:
        seconds = time.monotonic() - running.started
        if running.beside:  # the machine was shared, so its seconds compare with no other training's
            outcome = replace(outcome, facts={**outcome.facts, "trained_beside": running.beside})
        if changed := sources.differing(outcome.sources, self.sources):
            outcome = Outcome(status="interrupted", detail=sources.changed_sentence(changed))
        return Finished(job=running.job, outcome=outcome, started_s=running.started_s, seconds=seconds)

    def _start_server(self, key: tuple[int, Allocator]) -> ForkServer | Spawner:
        self.close()
        kind = Spawner if self.spawn else ForkServer
        self._server, self._key = kind(_ALLOCATOR_SETTINGS[key[1]]), key
        return self._server


def _key(job: Job) -> tuple[int, Allocator]:
    """Return the key of the server that forks a job: forked siblings share memory layout, so each round has its own."""
    return job.round if job.timed else 0, job.protocol.allocator


def _is_parallel(job: Job) -> bool:
    """Return whether a job may run beside others: training on the CPU, one core each; a GPU trains one model."""
    return not job.timed and job.case.device == "cpu"


def _bounded(question: Question, memory_bytes: int | None) -> Question:
    return replace(question, memory_bytes=memory_bytes) if isinstance(question, Bounded) else question


def _lost(loss: ServerLost, running: _Running) -> Outcome:
    if limits.oom_kills() > running.oom_kills:
        return Outcome(
            status="oom_host", detail=f"the server that forks the jobs {loss}: the machine's memory was full"
        )
    return Outcome(status="crash", detail=f"the server that forks the jobs {loss}")


def _value(exited: Exit, kind: type[T], killed_before: int) -> T:
    """Return the value of a child's answer. Raises UsageError, and NoAnswer for a child that gave none."""
    if exited.answer is None:
        raise NoAnswer(_how_it_ended(exited, killed_before))
    return answers.value_of(exited.answer, kind)


def _value_or_reason(exited: Exit, kind: type[T], killed_before: int) -> T | NoAnswer:
    try:
        return _value(exited, kind, killed_before)
    except NoAnswer as end:
        return end


def _outcome(exited: Exit, running: _Running) -> Outcome:
    """Return the child's own outcome, or for a child without an answer that counts one that says how it ended."""
    if exited.answer is not None:
        try:
            own = answers.outcome_of(exited.answer, running.job, seconds=time.monotonic() - running.started)
        except (NoAnswer, UsageError) as fault:
            return Outcome(status="crash", detail=str(fault), log=exited.log)
        return own if own.status == "ok" else replace(own, log=exited.log + own.log)
    if exited.silent:
        patience = running.job.protocol.timeout_s
        return Outcome(status="timeout", detail=f"no sign of life for {patience:g} s (--timeout)", log=exited.log)
    status: Status = "oom_host" if _was_killed_for_memory(exited, running.oom_kills) else "crash"
    return Outcome(status=status, detail=_how_it_ended(exited, running.oom_kills), log=exited.log)


def _how_it_ended(exited: Exit, killed_before: int) -> str:
    if exited.silent:
        return "gave no sign of life and was ended"
    if exited.fault:
        return exited.fault
    if _was_killed_for_memory(exited, killed_before):
        return "was ended by the kernel: the machine's memory was full"
    instead = ", after something that is none" if exited.garbled else ""
    if exited.exit_code < 0:
        return f"ended by {signal_name(-exited.exit_code)} without an answer{instead}"
    return f"exited with code {exited.exit_code} without an answer{instead}"


def _was_killed_for_memory(exited: Exit, killed_before: int) -> bool:
    return exited.exit_code == -signal.SIGKILL and limits.oom_kills() > killed_before
