"""`attnbench.run` and `attnbench.resume` as people call them: with progress in a terminal or a notebook."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Unpack

from attnbench import api
from attnbench.contracts.record import Record
from attnbench.execute.executor import Progressed, Started
from attnbench.runs import Run
from attnbench.session import Notice, Notify, Opened, quietly
from attnbench.store import RESULTS

_SHOWN_EVERY_S = 0.5


def run(*, out: str | Path = RESULTS, notify: Notify | None = None, **flags: Unpack[api.Flags]) -> Run:
    """Measure a sweep, as `attnbench run` does, and return the run; each argument is the flag of its name.

    Ranges and names may be text as on the command line, or lists. Raises UsageError for what the command line would
    refuse. `notify` is called with every notice of the session; without it, progress is shown in a terminal or a
    notebook.
    """
    with _listening(notify) as listener:
        return api.run(out=out, notify=listener, **flags)


def resume(
    run: str | Path | Run, *, retry_failed: bool = False, out: str | Path = RESULTS, notify: Notify | None = None
) -> Run:
    """Measure what a stored run still lacks, as `attnbench run --resume` does, and return it; see `run`.

    With `retry_failed`, repeat what failed. Raises UsageError where the machine or its software has changed.
    """
    with _listening(notify) as listener:
        return api.resume(run, retry_failed=retry_failed, out=out, notify=listener)


@contextmanager
def _listening(notify: Notify | None) -> Iterator[Notify]:
    """Yield the listener given, or one that shows the progress where someone is looking."""
    if notify is not None:
        yield notify
    elif _is_notebook():
        yield _Notebook()
    elif sys.stderr is not None and sys.stderr.isatty():
        from attnbench.cli.live import display  # the command line's own, which takes time to import

        with display() as shown:
            yield shown
    else:
        yield quietly


def _is_notebook() -> bool:
    """Return whether this is a Jupyter kernel."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and type(ipython.get_ipython()).__name__ == "ZMQInteractiveShell"


class _Notebook:
    """One line below a cell, which is updated; it ends as the run's name and the number of its jobs."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._opened: Opened | None = None
        self._done, self._shown_at = 0, 0.0

    def __call__(self, notice: Notice) -> None:
        if isinstance(notice, Opened):
            self._opened, self._done = notice, 0
            self._show("")
            return
        assert self._opened is not None
        self._done += isinstance(notice, Record)
        is_last = self._done == len(self._opened.jobs)
        if is_last or time.monotonic() - self._shown_at >= _SHOWN_EVERY_S:
            self._show("" if is_last else _doing(notice))

    def _show(self, doing: str) -> None:
        assert self._opened is not None
        line = f"run {self._opened.plan.run}: {self._done} of {len(self._opened.jobs)} jobs{doing}"
        self._shown_at = time.monotonic()
        if self._handle is None:
            from IPython.display import display

            self._handle = display({"text/plain": line}, raw=True, display_id=True)
        else:
            self._handle.update({"text/plain": line}, raw=True)


def _doing(notice: Started | Progressed | Record) -> str:
    case = notice.job.case
    kind = notice.job.probe.label or notice.job.probe.metric.name
    text = f", {notice.text}" if isinstance(notice, Progressed) else ""
    return f"; {kind} of {case.variant} at {case.length}{text}"
