"""What a person sees while a run is under way: on a terminal a live display, elsewhere a line for each record."""

import shlex
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from attnbench.cli.options import RESULTS
from attnbench.execute.events import Progressed, Started
from attnbench.record import Job, ProbeKind, Record
from attnbench.report.rows import rows
from attnbench.report.terminal import live as table_so_far
from attnbench.session import Notice, Notify, Opened
from attnbench.units import digits, duration, scale_for

_BAR = 24
# The display must not disturb what is measured: it is drawn once a second, and its table is made anew only when making
# it takes less than this share of the time since it was last made.
_DRAWN_PER_SECOND = 1
_SHARE = 0.02


class Progress:
    """How far a run has come, and how long the rest will take."""

    def __init__(self, opened: Opened) -> None:
        self.opened = opened
        self.left = {job.key: (job.question, job.probe.kind) for job in opened.jobs}
        self.records = list(opened.records)
        self.total, self.started = len(opened.jobs), time.monotonic()
        self.running: dict[str, tuple[Job, str]] = {}
        self._seconds: dict[str, float] = {}
        self._kinds: dict[ProbeKind, tuple[float, int]] = defaultdict(lambda: (0.0, 0))

    @property
    def done(self) -> int:
        """Count the jobs that are over."""
        return self.total - len(self.left)

    def take(self, notice: Started | Progressed | Record) -> None:
        """Take in what happened."""
        if isinstance(notice, Started):
            self.running[notice.job.key] = (notice.job, "")
        elif isinstance(notice, Progressed):
            self.running[notice.job.key] = (notice.job, notice.text)
        else:
            self.running.pop(notice.job.key, None)
            self.records.append(notice)
            self.left.pop(notice.job.key, None)
            self._seconds[notice.job.question] = notice.seconds
            spent, count = self._kinds[notice.job.probe.kind]
            self._kinds[notice.job.probe.kind] = (spent + notice.seconds, count + 1)

    def left_s(self) -> float | None:
        """Estimate the seconds left: what an earlier round took, or else the mean of its kind; None at first."""
        found = [self._expected(question, kind) for question, kind in self.left.values()]
        known = [seconds for seconds in found if seconds is not None]
        return sum(known) * len(found) / len(known) if known else None

    def _expected(self, question: str, kind: ProbeKind) -> float | None:
        spent, count = self._kinds[kind]
        return self._seconds.get(question, spent / count if count else None)


@contextmanager
def display() -> Iterator[Notify]:
    """Give what a session notifies: a live display where standard error is a terminal, plain lines where it is not.

    What ends a run early is followed by how to go on with it.
    """
    console = Console(stderr=True, highlight=False)
    lively = console.is_terminal and not console.is_dumb_terminal
    shown = _Screen(console) if lively else _Lines(console)
    try:
        with shown.live if isinstance(shown, _Screen) else nullcontext():
            yield shown
    except BaseException:
        if shown.progress is not None:
            path = shown.progress.opened.path
            out = "" if path.parent == RESULTS else f" --out {shlex.quote(str(path.parent))}"
            how = f"what was measured is kept; go on with: attnbench run --resume {path.name}{out}"
            console.print(Text(how), soft_wrap=True)
        raise


class _Lines:
    """A line for each record."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress: Progress | None = None

    def __call__(self, notice: Notice) -> None:
        if isinstance(notice, Opened):
            self.progress = Progress(notice)
            self._say(f"run {notice.plan.run}: {len(notice.jobs)} jobs on {notice.plan.environment.device_name}")
            return
        assert self.progress is not None
        self.progress.take(notice)
        if isinstance(notice, Record):
            self._say(f"[{self.progress.done}/{self.progress.total}] {named(notice.job)}: {result(notice)}")

    def _say(self, line: str) -> None:
        self.console.print(Text(line), soft_wrap=True)


class _Screen:
    """The live display: the rows so far, what runs now, how much is done and the time left."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = Live(
            get_renderable=self.render, console=console, refresh_per_second=_DRAWN_PER_SECOND, transient=True
        )
        self.progress: Progress | None = None
        self.table: RenderableType = Text("")
        self.made, self.cost = float("-inf"), 0.0

    def __call__(self, notice: Notice) -> None:
        if isinstance(notice, Opened):
            self.progress = Progress(notice)
            return
        assert self.progress is not None
        self.progress.take(notice)
        if isinstance(notice, Record) and self.cost <= _SHARE * (time.monotonic() - self.made):
            started = time.monotonic()
            self.table = table_so_far(rows(self.progress.records, self.progress.opened.plan.jobs))
            self.made = time.monotonic()
            self.cost = self.made - started

    def render(self) -> RenderableType:
        """Draw what is known now."""
        if self.progress is None:
            return Text("asking the machine and the plugins what they are ...", style="dim")
        return Group(self.table, *self._running(), self._bar())

    def _running(self) -> list[Text]:
        assert self.progress is not None
        width = self.console.width
        lines = [f"  {named(job)}  {text}" for job, text in list(self.progress.running.values())]
        return [Text(line[:width], style="cyan", no_wrap=True) for line in lines]

    def _bar(self) -> Text:
        assert self.progress is not None
        done, total = self.progress.done, self.progress.total
        filled = round(_BAR * done / total) if total else _BAR
        left = self.progress.left_s()
        times = f"{duration(time.monotonic() - self.progress.started)} elapsed"
        if left is not None:
            times += f", about {duration(left)} left"
        bar = "=" * filled + "." * (_BAR - filled)
        return Text(f"  [{bar}] {done}/{total} jobs, {times}", style="bold")


def named(job: Job) -> str:
    """Name a job as a person would: probe, pass, variant, sizes, round."""
    case = job.case
    words = [job.probe.task or job.probe.kind, case.passes, case.variant]
    words += [f"seq {case.shape.seq_k}", f"heads {case.shape.heads}"]
    if job.protocol.rounds > 1:
        words.append(f"{'round' if job.timed else 'seed'} {job.round}/{job.protocol.rounds}")
    return " ".join(word for word in words if word)


def result(record: Record) -> str:
    """Say what came of a record: its first figure, or its status and reason."""
    outcome = record.outcome
    if outcome.status != "ok":
        return f"{outcome.status}: {outcome.detail}" if outcome.detail else outcome.status
    first = outcome.measurements[0]
    values = sorted(value for value in first.values if value is not None)
    if not values:
        return "not finite"
    value = values[len(values) // 2] * (1e-9 if first.unit == "ns" else 1.0)
    scale = scale_for("s" if first.unit == "ns" else first.unit, [value])
    return f"{digits(value / scale.size)} {scale.name}".rstrip()
