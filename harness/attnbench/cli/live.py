"""The display of a running session: live on a terminal, elsewhere one line for each record."""

import shlex
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

from attnbench.analysis.rows import rows
from attnbench.cli.forecast import forecast
from attnbench.cli.progress import Progress
from attnbench.contracts.record import Record
from attnbench.contracts.text import plain
from attnbench.contracts.units import digits, duration, roughly, scale_for
from attnbench.report.terminal import live as table_so_far
from attnbench.session import Notice, Notify, Opened
from attnbench.store import RESULTS

_BAR = 16
_INSPECTING = "Inspecting machine and plugins..."
_SLOW_S = 5.0  # a mistake is told sooner, in one sentence
_MOST_RUNNING = 2  # lines of what runs now; trainings run as many at a time as there are cores
# The display must not disturb the measurement: it is drawn once a second, and its table is made again only if that
# takes less than this share of the time since it was last made.
_DRAWN_PER_SECOND = 1
_SHARE = 0.02


@contextmanager
def display() -> Iterator[Notify]:
    """Show a session on standard error and yield its listener: a live display on a terminal, plain lines elsewhere.

    A run that ends early is followed by the command that resumes it.
    """
    console = Console(stderr=True, highlight=False)
    lively = console.is_terminal and not console.is_dumb_terminal
    shown = _Screen(console) if lively else _Lines(console)
    try:
        with shown:
            yield shown
    except BaseException:
        if shown.progress is not None:
            how = f"attnbench run --resume {place(shown.progress.opened.path)}"
            console.print(Text(plain(f"what was measured is kept; go on with: {how}")), soft_wrap=True)
        raise


def place(run: Path) -> str:
    """Return a run as it is typed after a command: its id, and its folder if that is not the default."""
    return run.name if run.parent == RESULTS else f"{run.name} --out {shlex.quote(str(run.parent))}"


class _Lines:
    """Prints a line for each record."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress: Progress | None = None
        self._slow = Timer(_SLOW_S, self._say, [_INSPECTING])
        self._slow.daemon = True

    def __enter__(self) -> None:
        """Name what comes before the first job, if slow plugins make that long."""
        self._slow.start()

    def __exit__(self, *_: object) -> None:
        """Name it no more."""
        self._slow.cancel()

    def __call__(self, notice: Notice) -> None:
        if isinstance(notice, Opened):
            self._slow.cancel()
            for line in _announced(notice, begins=self.progress is None):
                self._say(line)
            self.progress = Progress(notice)
            return
        assert self.progress is not None
        self.progress.update(notice)
        if isinstance(notice, Record):
            done, total = self.progress.counts
            self._say(f"[{done}/{total}] {self.progress.named(notice.job)}: {result(notice)}")

    def _say(self, line: str) -> None:
        self.console.print(Text(plain(line)), soft_wrap=True)


class _Screen:
    """The live display: the rows so far, running jobs, jobs done and the time left. It is erased at the end."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress: Progress | None = None
        self.table: RenderableType | None = None
        self.made, self.cost = float("-inf"), 0.0
        self.over = False
        self.live = Live(
            get_renderable=lambda: self,
            console=console,
            refresh_per_second=_DRAWN_PER_SECOND,
            transient=True,
            redirect_stdout=False,
        )

    def __enter__(self) -> None:
        self.live.start(refresh=True)

    def __exit__(self, *_: object) -> None:
        self.over = True  # a frame taller than the screen could not be erased
        self.live.stop()

    def __call__(self, notice: Notice) -> None:
        if isinstance(notice, Opened):
            for line in _announced(notice, begins=self.progress is None):
                self.console.print(Text(plain(line), style="dim"))
            self.progress = Progress(notice)
            return
        assert self.progress is not None
        self.progress.update(notice)
        if isinstance(notice, Record) and self.cost <= _SHARE * (time.monotonic() - self.made):
            started = time.monotonic()
            opened = self.progress.opened
            self.table = table_so_far(rows(self.progress.records, opened.plan.jobs, run=opened.plan.run))
            self.made = time.monotonic()
            self.cost = self.made - started

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the current state; the table gets the room that the rest leaves on the screen."""
        if self.over:
            return
        if self.progress is None:
            yield Text(_INSPECTING, style="dim")
            return
        below = list(_below(self.progress))
        if self.table is not None:
            lines = console.render_lines(self.table, options.update(height=None), pad=False)
            for line in _in_sight(lines, self.progress.running_names(), room=console.height - len(below) - 1):
                yield from (*line, Segment.line())
        yield from below


def _in_sight(lines: list[list[Segment]], names: Collection[str], *, room: int) -> Iterator[list[Segment]]:
    """Yield as many lines of a table as there is room for, those of running variants among them, and how many more."""
    if len(lines) <= room:
        yield from lines
        return
    kept = max(0, room - 1)
    texts = ["".join(segment.text for segment in line) for line in lines]
    running = [number for number, text in enumerate(texts) if text.split("  ")[0] in names]
    first = min(max(0, running[0] - kept // 2), len(lines) - kept) if running else 0
    yield from lines[first : first + kept]
    if room > 0:
        yield [Segment(f"... {len(lines) - kept} more lines; the whole table comes at the end")]


def _announced(opened: Opened, *, begins: bool) -> Iterator[str]:
    """Yield what the jobs of a run, or further ones, are going to take; where it begins, how to make it shorter."""
    foretold = forecast(opened.plan, opened.jobs)
    yield f"run {opened.plan.run}: {foretold.sentence()}"
    if begins and foretold.advice:
        yield foretold.advice


def _below(progress: Progress) -> Iterator[Text]:
    """Yield a line for each running job, and one for the progress of the run."""
    view = progress.view()
    shown = view.running if len(view.running) <= _MOST_RUNNING else view.running[: _MOST_RUNNING - 1]
    for job, text in shown:
        yield _line(f"  {progress.named(job)}  {text}", "cyan")
    if len(view.running) > len(shown):
        yield _line(f"  and {len(view.running) - len(shown)} more beside it", "cyan")
    filled = round(_BAR * view.done / view.total) if view.total else _BAR
    bar = "=" * filled + "." * (_BAR - filled)
    times = f"{duration(view.elapsed_s)} elapsed, {roughly(view.left_s)} left"
    yield _line(f"  [{bar}] {view.done}/{view.total} jobs, {times}", "bold")


def _line(text: str, style: str) -> Text:
    return Text(plain(text.rstrip()), style=style, no_wrap=True, overflow="ellipsis")


def result(record: Record) -> str:
    """Return the result of a record: its first figure, or its status and reason."""
    outcome = record.outcome
    if outcome.status != "ok":
        return f"{outcome.status}: {outcome.detail}" if outcome.detail else outcome.status
    if not outcome.measurements:
        return "it measured nothing"
    first = outcome.measurements[0]
    values = sorted(value for value in first.values if value is not None)
    if not values:
        return "not finite"
    value = values[len(values) // 2] * (1e-9 if first.unit == "ns" else 1.0)
    scale = scale_for("s" if first.unit == "ns" else first.unit, [value])
    return f"{digits(value / scale.size)} {scale.name}".rstrip()
