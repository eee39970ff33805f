"""A recommendation for a workload, from stored runs and, where they lack something, from measuring it."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from attnbench import session
from attnbench.analysis.comparability import machine_mismatches
from attnbench.analysis.rows import Row
from attnbench.answers.further import further
from attnbench.answers.recommend.needs import Needs
from attnbench.answers.recommend.ranking import Assessment, Recommendation
from attnbench.answers.recommend.ranking import recommend as recommend_from
from attnbench.contracts.case import Case
from attnbench.contracts.errors import DamagedStore, UsageError
from attnbench.contracts.ranges import parse_bytes, parse_latency
from attnbench.contracts.record import Environment
from attnbench.contracts.specs import parse_specs
from attnbench.contracts.suite import USUAL, Sweep, flag_of, overlay
from attnbench.contracts.text import with_options
from attnbench.execute.local import LocalExecutor
from attnbench.planning.cases import AXES_OF_A_CASE, cases
from attnbench.planning.machine import describe_machine
from attnbench.planning.request import Request
from attnbench.planning.suites import find_suite
from attnbench.report.reported import rows_of
from attnbench.session import Notify, quietly
from attnbench.store import RESULTS, Store, find_run, run_paths

T = TypeVar("T")

_STANDARD = "standard"  # the suite whose variants and task are measured where no others are named


class Sources(Struct, frozen=True, kw_only=True):
    """The stored runs that a recommendation may rest on: all under `out`, or those named.

    Runs of other machines or software count only where runs are named, or with `anywhere`.
    """

    out: Path = RESULTS
    runs: tuple[str | Path, ...] = ()
    anywhere: bool = False


class _Evidence(Struct):
    """The rows of the runs that were read, the oldest run's first, and the runs that were not."""

    device: str
    rows: list[Row] = []
    runs: list[str] = []
    measured_elsewhere: list[str] = []
    left_out: list[str] = []

    def add(self, store: Store) -> None:
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
    """Parse needs as on the command line: "24GiB", "50ms", 0.05, 0.9, "mqar". Raises UsageError."""
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
    request: Request,
    needs: Needs,
    *,
    sources: Sources | None = None,
    measure: bool = False,
    notify: Notify = quietly,
) -> Recommendation:
    """Rank variants for a workload by what stored runs show; see `ranking.recommend`.

    The request's sweep is the workload, one value an axis; it defaults to 8 heads of 64, batch 1, forward, core level.
    With `measure`, a new run measures what is not known at this length first: for the variants that the runs or
    `sweep.variants` name, else those of the suite `standard`. Raises UsageError.
    """
    sources = sources or Sources()
    evidence = _read(sources, request)
    sweep = _usual(request.sweep, evidence.device)
    workload = _workload(sweep, evidence.device)
    variants = parse_specs(sweep.variants, flag="--variants") if sweep.variants else None
    answer = recommend_from(evidence.rows, workload, needs, variants=variants)
    if measure and (lacking := _lacking(answer, sweep, needs)):
        # Errors are measured on captured inputs, as everywhere, unless others are named.
        asked = replace(request, sweep=replace(lacking, inputs=request.sweep.inputs), device=evidence.device)
        with Store.open(session.start(asked, sources.out, notify, further=further), write=False) as store:
            evidence.add(store)
        answer = recommend_from(evidence.rows, workload, needs, variants=variants)
    return replace(
        answer,
        runs=tuple(evidence.runs),
        measured_elsewhere=tuple(evidence.measured_elsewhere),
        left_out=tuple(evidence.left_out),
    )


def _read(sources: Sources, request: Request) -> _Evidence:
    paths = [find_run(str(name), sources.out) for name in sources.runs] or run_paths(sources.out)
    if sources.anywhere or sources.runs:
        return _of_any_machine(paths, request.device)
    with closing(LocalExecutor()) as executor:
        machine = describe_machine(executor, request.device, threads=request.threads, allocator="default")
    return _of_this_machine(paths, machine)


def _of_this_machine(paths: Iterable[Path], machine: Environment) -> _Evidence:
    evidence = _Evidence(device=machine.device)
    for path in paths:
        try:
            with Store.open(path, write=False) as store:
                differing = machine_mismatches(store.environments().values(), machine)
                if not differing:
                    evidence.add(store)
                    continue
        except (DamagedStore, UsageError) as damage:  # one damaged run must not keep the others from answering
            evidence.left_out.append(f"{path.name}: {damage}")
        else:
            evidence.left_out.append(f"{path.name}: {', '.join(map(str, differing))} (--anywhere takes it)")
    return evidence


def _of_any_machine(paths: Sequence[Path], device: str) -> _Evidence:
    with ExitStack() as opened:
        stores = [opened.enter_context(Store.open(path, write=False)) for path in paths]
        devices = {machine.device for store in stores for machine in store.environments().values()}
        device = device if device != "auto" else _one(sorted(devices), "--device")
        evidence = _Evidence(device="cuda:0" if device == "cuda" else device)
        for store in stores:
            evidence.add(store)
            machines = dict.fromkeys(map(_named, store.environments().values()))
            evidence.measured_elsewhere.append(f"{store.path.name}: {' and '.join(machines)}")
    return evidence


def _named(machine: Environment) -> str:
    return f"{machine.device_name or machine.device}, torch {machine.torch}, {machine.threads} threads"


def _usual(sweep: Sweep, device: str) -> Sweep:
    """Return a workload with its defaults filled in."""
    usual = replace(USUAL, dtype="bfloat16" if device.startswith("cuda") else "float32")
    return overlay(usual, sweep)


def _workload(sweep: Sweep, device: str) -> Case:
    """Return the one case of a sweep. Raises UsageError where there are several."""
    swept = cases(sweep)
    for axis in AXES_OF_A_CASE:
        _one(list(dict.fromkeys(getattr(case, axis) for case in swept)), flag_of(axis))
    return replace(_one(swept, "--seq"), device=device)


def _one(values: Sequence[T], flag: str) -> T:
    if len(values) != 1:
        several = ", ".join(map(str, values)) if flag != "--seq" else f"{len(values)} shapes"
        raise UsageError(f"{flag}: an answer is for one workload, and this is {several or 'none'}; name one")
    return values[0]


def _lacking(answer: Recommendation, workload: Sweep, needs: Needs) -> Sweep | None:
    """Return the sweep that measures what is missing at the workload's length; None if nothing is."""
    lines = [line for line in answer.lines if line.lacks or (line.verdict != "fails" and _extrapolated(line))]
    metrics = [probe for line in lines for probe in (*line.lacks, *_extrapolated(line))]
    variants: str | None = ",".join(map(_spec, lines))
    if not answer.lines:
        variants = find_suite(_STANDARD).sweep.variants
        metrics = [*needs.probes]
    if not metrics:
        return None
    label = next((line.score.task for line in answer.lines if line.score), None)
    tasks = label or (str(needs.task) if needs.task else find_suite(_STANDARD).sweep.tasks)
    return replace(workload, variants=variants, metrics=",".join(dict.fromkeys(metrics)), tasks=tasks)


def _extrapolated(line: Assessment) -> list[str]:
    """Return the probes whose figure is extrapolated beyond the lengths that were measured."""
    figures = {"latency": line.latency, "memory": line.memory}
    return [probe for probe, figure in figures.items() if figure and figure.how == "beyond"]


def _spec(line: Assessment) -> str:
    """Return a variant as it is typed."""
    name = f"{line.origin}:{line.variant}" if line.origin.endswith(".py") else line.variant
    return with_options(name, line.options, keys=line.options)
