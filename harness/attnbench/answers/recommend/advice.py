"""The answers: what to take for a workload, from stored runs, and by measuring what they lack."""

from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from attnbench import session
from attnbench.analysis.guard import elsewhere
from attnbench.analysis.rows import Row
from attnbench.answers.further import further
from attnbench.answers.recommend.needs import Needs
from attnbench.answers.recommend.ranking import Line, Recommendation
from attnbench.answers.recommend.ranking import recommend as recommend_from
from attnbench.contracts.case import Case
from attnbench.contracts.errors import DamagedStore, UsageError
from attnbench.contracts.ranges import parse_bytes, parse_latency
from attnbench.contracts.record import Environment, Profile
from attnbench.contracts.specs import parse_specs
from attnbench.contracts.suite import USUAL, Sweep, overlay
from attnbench.contracts.text import with_options
from attnbench.execute.local import LocalExecutor
from attnbench.measure import processor
from attnbench.planning.plan import read_sweep
from attnbench.planning.request import Request, ask_machine, find_suite
from attnbench.report.reported import rows_of
from attnbench.session import Notify, quietly
from attnbench.store import RESULTS, Store, find_run, run_paths

T = TypeVar("T")

_STANDARD = "standard"  # the suite whose variants and task are measured where nobody names any


class Place(Struct, frozen=True, kw_only=True):
    """Where rows come from, and where what they lack is measured. `anywhere` also takes other machines' runs."""

    out: Path = RESULTS
    runs: tuple[str | Path, ...] = ()
    anywhere: bool = False
    device: str = "auto"
    threads: int | None = None
    profile: Profile | None = None

    @property
    def is_open(self) -> bool:
        """Whether rows may come from any machine: those of runs that are named, and where it is asked for."""
        return self.anywhere or bool(self.runs)


class _Sources(Struct):
    """The rows that an answer is made from, the oldest run's first."""

    device: str
    rows: list[Row] = []
    runs: list[str] = []
    measured_elsewhere: list[str] = []
    left_out: list[str] = []

    def take(self, store: Store) -> None:
        """Add the rows of a run."""
        self.rows += rows_of(store)
        self.runs.append(store.path.name)


def read_needs(
    *,
    memory: str | int | None = None,
    max_latency: str | float | None = None,
    max_error: float | None = None,
    min_accuracy: float | None = None,
    task: str | None = None,
) -> Needs:
    """Read what must hold, as on the command line: "24GiB", "50ms", 0.05, 0.9, "mqar". Raises UsageError."""
    tasks = parse_specs(task, flag="--task") if task is not None else [None]
    for flag, value in (("--max-error", max_error), ("--min-accuracy", min_accuracy)):
        if value is not None and not value >= 0:
            raise UsageError(f"{flag}: {value} is no such figure; give 0 or more")
    return Needs(
        memory_bytes=parse_bytes(str(memory), flag="--memory") if memory is not None else None,
        max_latency_s=parse_latency(str(max_latency), flag="--max-latency") if max_latency is not None else None,
        max_error=max_error,
        min_accuracy=min_accuracy,
        task=_one(tasks, "--task"),
    )


def recommend(
    sweep: Sweep,
    needs: Needs,
    *,
    place: Place | None = None,
    measure: bool = False,
    notify: Notify = quietly,
) -> Recommendation:
    """Rank variants for a workload by what stored runs know of them; see `insight.recommend`.

    `sweep` is the workload, one value an axis; what it leaves out is 8 heads of 64, batch 1, forward, at core level.
    Without names, the runs under `place.out` that were measured on this machine, with its software, are asked. With
    `measure`, what is not known at this length is measured first, in a run of its own: of the variants that the runs
    or `sweep.variants` name, else of the suite `standard`. Raises UsageError.
    """
    place = place or Place()
    found = _sources(place)
    asked = overlay(USUAL, sweep)
    asked = asked if asked.dtype else replace(asked, dtype="bfloat16" if found.device.startswith("cuda") else "float32")
    workload = _workload(asked, found.device)
    variants = parse_specs(sweep.variants, flag="--variants") if sweep.variants else None
    answer = recommend_from(found.rows, workload, needs, variants=variants)
    if measure and (lacking := _lacking(answer, asked, needs)):
        request = Request(
            sweep=lacking,
            device=found.device,
            threads=processor.cores() if place.threads is None else place.threads,
            profile=place.profile or "default",
            command=("attnbench.run",),
        )
        with Store.open(session.start(request, place.out, notify, further=further), write=False) as store:
            found.take(store)
        answer = recommend_from(found.rows, workload, needs, variants=variants)
    return replace(
        answer,
        runs=tuple(found.runs),
        measured_elsewhere=tuple(found.measured_elsewhere),
        left_out=tuple(found.left_out),
    )


def _sources(place: Place) -> _Sources:
    """Read the runs that may be asked, of any machine or of this one."""
    paths = [find_run(str(name), place.out) for name in place.runs] or run_paths(place.out)
    if place.is_open:
        return _of_any_machine(paths, place)
    with closing(LocalExecutor()) as executor:
        threads = processor.cores() if place.threads is None else place.threads
        machine = ask_machine(executor, place.device, threads=threads, allocator="default")
    return _of_this_machine(paths, machine)


def _of_this_machine(paths: Iterable[Path], machine: Environment) -> _Sources:
    found = _Sources(device=machine.device)
    for path in paths:
        try:
            with Store.open(path, write=False) as store:
                differing = elsewhere(store.environments().values(), machine)
                if differing:
                    found.left_out.append(f"{path.name}: {', '.join(map(str, differing))} (--anywhere takes it)")
                else:
                    found.take(store)
        except (DamagedStore, UsageError) as damage:  # of one run, which must not keep the others from answering
            found.left_out.append(f"{path.name}: {damage}")
    return found


def _of_any_machine(paths: Sequence[Path], place: Place) -> _Sources:
    stores = [Store.open(path, write=False) for path in paths]
    devices = {machine.device for store in stores for machine in store.environments().values()}
    device = place.device if place.device != "auto" else _one(sorted(devices), "--device")
    found = _Sources(device="cuda:0" if device == "cuda" else device)
    for store in stores:
        machines = (
            f"{each.device_name or each.device}, torch {each.torch}, {each.threads} threads"
            for each in store.environments().values()
        )
        found.take(store)
        found.measured_elsewhere.append(f"{store.path.name}: {' and '.join(dict.fromkeys(machines))}")
    return found


def _workload(asked: Sweep, device: str) -> Case:
    read = read_sweep(asked)
    cell = _one(read.cells, "--seq")
    return Case(
        variant="",
        shape=cell.shape,
        mask=cell.mask,
        dtype=_one(read.dtypes, "--dtype"),
        device=device,
        passes=_one(read.passes, "--passes"),
        level=_one(read.levels, "--level"),
        inputs=_one(read.inputs, "--inputs"),
    )


def _one(values: Sequence[T], flag: str) -> T:
    if len(values) != 1:
        told = ", ".join(map(str, values)) if flag != "--seq" else f"{len(values)} shapes"
        raise UsageError(f"{flag}: an answer is for one workload, and this is {told or 'none'}; name one")
    return values[0]


def _lacking(answer: Recommendation, asked: Sweep, needs: Needs) -> Sweep | None:
    """Say what to measure so that every line is known at this very length; None where that is so."""
    lines = [line for line in answer.lines if line.lacks or (line.verdict != "fails" and _carried(line))]
    metrics = [probe for line in lines for probe in (*line.lacks, *_carried(line))]
    variants: str | None = ",".join(map(_spec, lines))
    if not answer.lines:
        variants = find_suite(_STANDARD).sweep.variants
        metrics = [*needs.probes]
    if not metrics:
        return None
    label = next((line.score.task for line in answer.lines if line.score), None)
    tasks = label or (str(needs.task) if needs.task else find_suite(_STANDARD).sweep.tasks)
    return replace(asked, variants=variants, metrics=",".join(dict.fromkeys(metrics)), tasks=tasks)


def _carried(line: Line) -> list[str]:
    """Name the probes whose figure is carried beyond the lengths that were measured."""
    figures = {"latency": line.latency, "memory": line.memory}
    return [probe for probe, figure in figures.items() if figure and figure.how == "beyond"]


def _spec(line: Line) -> str:
    """Write a variant as it is typed."""
    name = f"{line.origin}:{line.variant}" if line.origin.endswith(".py") else line.variant
    return with_options(name, line.options, keys=line.options)
