"""From a sweep to jobs: every cell of the product, as a case for every variant, in rounds with a shuffled order."""

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice, product
from typing import Any, get_args

import msgspec
from msgspec import Struct

from attnbench.contracts.case import Case, Dtype, Inputs, Level, Mask, Passes, Shape
from attnbench.contracts.errors import UsageError, suggestion
from attnbench.contracts.metrics import passes_of
from attnbench.contracts.record import Job, Origin, Probe, ProbeKind, Profile, Protocol
from attnbench.contracts.stats import FEWEST_REPLICATES
from attnbench.contracts.suite import Sweep
from attnbench.contracts.tunes import Tune
from attnbench.planning.cells import Cell, cells
from attnbench.planning.learning_rates import first_jobs

PROFILES: dict[Profile, Protocol] = {
    "quick": Protocol(profile="quick", rounds=1),
    "default": Protocol(profile="default"),
    "rigorous": Protocol(profile="rigorous", rounds=10, min_time_s=0.5, cap_s=30.0, timeout_s=300.0),
}
MOST_ROUNDS = PROFILES["rigorous"].rounds  # for whatever a time budget leaves time for
PASSES: tuple[Passes, ...] = ("forward", "backward", "forward-backward", "decode")
METRICS: tuple[ProbeKind, ...] = get_args(ProbeKind)
MOST_SHAPES = 10_000


class Candidate(Struct, frozen=True, kw_only=True):
    """A variant with complete options, ready to be planned: what it is called, what to import, and what it may tune."""

    name: str
    target: str
    origin: Origin
    options: dict[str, Any]
    tunes: dict[str, Tune] = {}


class Exam(Struct, frozen=True, kw_only=True):
    """A task with complete options, ready to be planned: the trained model's shape and mask come from it."""

    label: str
    target: str
    origin: Origin
    options: dict[str, Any]
    shape: Shape
    mask: Mask
    seeds: int


class Workloads(Struct, frozen=True, kw_only=True):
    """A sweep read and checked: its shapes with their masks, and each further axis as values."""

    cells: tuple[Cell, ...]
    dtypes: tuple[Dtype, ...]
    passes: tuple[Passes, ...]
    levels: tuple[Level, ...]
    inputs: tuple[Inputs, ...]
    metrics: tuple[ProbeKind, ...]

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shapes of all cells, each once."""
        return tuple(dict.fromkeys(cell.shape for cell in self.cells))

    @property
    def masks(self) -> tuple[Mask, ...]:
        """The masks of all cells, each once."""
        return tuple(dict.fromkeys(cell.mask for cell in self.cells))


def read_sweep(sweep: Sweep) -> Workloads:
    """Turn a sweep's text into values. Raises UsageError naming the flag and the fix."""
    found = tuple(islice(cells(sweep), MOST_SHAPES + 1))
    if len(found) > MOST_SHAPES:
        raise UsageError(f"--seq: with the other axes it makes more than {MOST_SHAPES} shapes; narrow a range")
    return Workloads(
        cells=found,
        dtypes=_choices(sweep.dtype, get_args(Dtype), flag="--dtype", default="float32"),
        passes=_choices(sweep.passes, PASSES, flag="--passes", default="forward"),
        levels=_choices(sweep.level, get_args(Level), flag="--level", default="core"),
        inputs=_choices(sweep.inputs, get_args(Inputs), flag="--inputs", default="normal"),
        metrics=_choices(sweep.metrics, METRICS, flag="--metrics", default="latency"),
    )


class Setting(Struct, frozen=True, kw_only=True):
    """What holds for every job of a run. `floor` is timed beside the candidates: what the harness itself costs."""

    device: str
    protocol: Protocol
    floor: Candidate
    seed: int = 0


def plan_jobs(
    workloads: Workloads, candidates: Sequence[Candidate], exams: Sequence[Exam], setting: Setting
) -> tuple[Job, ...]:
    """Give all jobs, variants in the order asked: timed rounds first, then what is measured once, then training."""
    timed = list(_timed(workloads, candidates, setting)) if "latency" in workloads.metrics else []
    others = [metric for metric in METRICS if metric in workloads.metrics and metric not in ("latency", "accuracy")]
    once = [job for metric in others for job in _measured(Probe(kind=metric), workloads, candidates, setting)]
    rounds: list[Job] = []
    for number in range(1, setting.protocol.rounds + 1):
        rounds += [msgspec.structs.replace(job, round=number) for job in timed]
    training = list(_exams(candidates, exams, setting)) if "accuracy" in workloads.metrics else []
    jobs = tuple({job.key: job for job in (*rounds, *once, *training)}.values())  # one axis may repeat another's shapes
    if not jobs:
        raise UsageError("--metrics: nothing is left to measure; name at least one metric, and --tasks for accuracy")
    return jobs


def timed_like(jobs: Sequence[Job], known: Case, wanted: Case) -> Iterator[Job]:
    """Give the jobs that time a case in every round in which another one is timed."""
    for job in jobs:
        if job.probe == Probe(kind="latency") and job.case == known:
            yield msgspec.structs.replace(job, case=wanted)


def in_running_order(jobs: Iterable[Job], *, further_rounds_last: bool = False) -> list[Job]:
    """Put jobs in the order in which they run: each timed round in an order of its own, shuffled from the seed.

    The machine's speed drifts; shuffled, its drift is noise and not a bias for whoever comes first. Where time may run
    short, everything is measured once before anything is measured again.
    """
    ordered: list[Job] = []
    if further_rounds_last:
        jobs = sorted(jobs, key=lambda job: job.timed_round > 1)
    for (kind, number), group in groupby(jobs, key=lambda job: (job.probe.kind, job.round)):
        block = list(group)
        if kind == "latency":
            random.Random(f"{block[0].case.seed}/{number}").shuffle(block)
        ordered += _baselines_first(block) if number == 1 else block
    return ordered


def _baselines_first(block: Sequence[Job]) -> list[Job]:
    """Let each baseline change places with its twin where that comes first: the first round tells if a twin is needed.

    (It is not where a call exceeds the cap, and the case is measured once.)
    """
    ordered = list(block)
    places: dict[str, list[int]] = {}
    for place, job in enumerate(ordered):
        places.setdefault(job.case.key, []).append(place)
    for pair in places.values():
        for place, job in zip(
            pair, sorted((block[place] for place in pair), key=lambda one: one.probe.twin), strict=True
        ):
            ordered[place] = job
    return ordered


def _timed(workloads: Workloads, candidates: Sequence[Candidate], setting: Setting) -> Iterator[Job]:
    """Give one round: the floor and every candidate, and the first of them, as the baseline, a second time.

    Where there are too few rounds for any verdict, nobody asks what identical measurements differ by.
    """
    racers = candidates if setting.floor in candidates else [setting.floor, *candidates]
    yield from _measured(Probe(kind="latency"), workloads, racers, setting)
    if setting.protocol.rounds >= FEWEST_REPLICATES:
        yield from _measured(Probe(kind="latency", twin=True), workloads, candidates[:1], setting)


def _measured(probe: Probe, workloads: Workloads, candidates: Sequence[Candidate], setting: Setting) -> Iterator[Job]:
    protocol = setting.protocol if probe.kind == "latency" else msgspec.structs.replace(setting.protocol, rounds=1)
    measured = passes_of(probe.kind, workloads.passes)
    where = product(workloads.dtypes, workloads.levels, workloads.inputs, measured, workloads.cells)
    for (dtype, level, inputs, passes, cell), candidate in product(where, candidates):
        case = Case(
            variant=candidate.name,
            options=candidate.options,
            shape=msgspec.structs.replace(cell.shape, seq_q=1) if passes == "decode" else cell.shape,
            mask=cell.mask,
            shape_name=cell.shape_name,
            dtype=dtype,
            device=setting.device,
            passes=passes,
            level=level,
            inputs=inputs,
            seed=setting.seed,
        )
        yield Job(case=case, probe=probe, protocol=protocol, target=candidate.target, origin=candidate.origin)


def _exams(candidates: Sequence[Candidate], exams: Sequence[Exam], setting: Setting) -> Iterator[Job]:
    for exam, candidate in product(exams, candidates):
        case = Case(
            variant=candidate.name,
            options=candidate.options,
            shape=exam.shape,
            mask=exam.mask,
            dtype="bfloat16" if setting.device.startswith("cuda") else "float32",
            device=setting.device,
            passes="",
            seed=setting.seed,
        )
        probe = Probe(kind="accuracy", task=exam.label, task_options=exam.options, task_origin=exam.origin)
        threads = 1 if setting.device == "cpu" else setting.protocol.threads
        protocol = msgspec.structs.replace(setting.protocol, rounds=exam.seeds, threads=threads)
        training = Job(
            case=case,
            probe=probe,
            protocol=protocol,
            target=candidate.target,
            origin=candidate.origin,
            task_target=exam.target,
        )
        yield from first_jobs(training)


def _choices(text: str | None, known: tuple[Any, ...], *, flag: str, default: str) -> tuple[Any, ...]:
    words = [word.strip() for word in (default if text is None else text).split(",")]
    for word in words:
        if word not in known:
            raise UsageError(f"{flag}: {word!r} is not one of {', '.join(known)}; {suggestion(word, known)}")
    # The known words themselves: a default is left out of a key by identity, and a word as typed would be another.
    return tuple(dict.fromkeys(known[known.index(word)] for word in words))
