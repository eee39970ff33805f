"""The jobs of a run, and the order in which they run: a case for every variant, in rounds that are each shuffled."""

import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, product

from msgspec import Struct
from msgspec.structs import replace

from attnbench.contracts.case import Case, Option
from attnbench.contracts.errors import UsageError
from attnbench.contracts.metrics import Metric, ProbeKind, passes_of
from attnbench.contracts.record import Job, Probe, Protocol
from attnbench.contracts.stats import FEWEST_REPLICATES
from attnbench.contracts.variant import scaled
from attnbench.planning.learning_rates import first_jobs
from attnbench.planning.metrics import PlannedMetric
from attnbench.planning.tasks import PlannedTask
from attnbench.planning.variants import Candidate

_IN_ROUNDS: ProbeKind = "latency"
_BY_TRAINING: ProbeKind = "accuracy"


class Conditions(Struct, frozen=True, kw_only=True):
    """What every job of a run has in common. `floor` is timed beside the candidates: the cost of the harness itself.

    `costed` is the longest sequence whose cost is measured, to which trained variants are scaled; 0 where none is.
    `captures` are the paths of captured inputs by digest.
    """

    device: str
    protocol: Protocol
    floor: Candidate
    seed: int = 0
    costed: int = 0
    captures: Mapping[str, str] = {}


def plan_jobs(
    cases: Sequence[Case],
    probes: Collection[ProbeKind],
    *,
    candidates: Sequence[Candidate],
    tasks: Iterable[PlannedTask],
    metrics: Iterable[PlannedMetric] = (),
    conditions: Conditions,
) -> tuple[Job, ...]:
    """Return all jobs, variants in the order asked: timed rounds, what is measured once, training, plugins' metrics.

    Raises UsageError where there is nothing to measure.
    """
    timed = list(_timed(cases, candidates, conditions)) if _IN_ROUNDS in probes else []
    rounds = [replace(job, round=number) for number in range(1, conditions.protocol.rounds + 1) for job in timed]
    once = [
        job
        for kind in probes
        if kind not in (_IN_ROUNDS, _BY_TRAINING)
        for job in _measured(Probe(kind=kind), cases, candidates, conditions)
    ]
    training = list(_trainings(candidates, tasks, conditions)) if _BY_TRAINING in probes else []
    others = [job for metric in metrics for job in _of_plugin(metric, cases, candidates, conditions)]
    # One axis may repeat another's shapes.
    jobs = tuple({job.key: job for job in (*rounds, *once, *training, *others)}.values())
    if not jobs:
        raise UsageError("--metrics: nothing is left to measure; name at least one metric, and --tasks for accuracy")
    return jobs


def timed_like(jobs: Iterable[Job], timed: Case, wanted: Case) -> Iterator[Job]:
    """Yield the jobs that time a wanted case in every round in which another one is timed."""
    for job in jobs:
        if job.probe == Probe(kind="latency") and job.case == timed:
            yield replace(job, case=wanted)


def in_running_order(jobs: Iterable[Job], *, further_rounds_last: bool = False) -> list[Job]:
    """Return jobs in the order in which they run: each timed round in an order of its own, shuffled from the seed.

    The machine's speed drifts; with shuffled rounds its drift is noise, not a bias for those that run first. With
    `further_rounds_last`, where time may run short, everything is measured once before anything is measured again.
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
    """Swap each baseline with its twin where the twin comes first: the first round shows whether a twin is needed.

    (It is not where a call exceeds the cap, and the case is measured once.)
    """
    ordered = list(block)
    positions: dict[str, list[int]] = {}
    for position, job in enumerate(ordered):
        positions.setdefault(job.case.key, []).append(position)
    for same in positions.values():
        jobs = sorted((block[position] for position in same), key=lambda job: job.probe.twin)
        for position, job in zip(same, jobs, strict=True):
            ordered[position] = job
    return ordered


def _timed(cases: Sequence[Case], candidates: Sequence[Candidate], conditions: Conditions) -> Iterator[Job]:
    """Yield one round: the floor and every candidate, then the first candidate, the baseline, a second time.

    Identical measurements show how far equal cases differ; too few rounds give no verdict that would need it.
    """
    racers = candidates if conditions.floor in candidates else [conditions.floor, *candidates]
    yield from _measured(Probe(kind="latency"), cases, racers, conditions)
    if conditions.protocol.rounds >= FEWEST_REPLICATES:
        yield from _measured(Probe(kind="latency", twin=True), cases, candidates[:1], conditions)


def _measured(
    probe: Probe, cases: Sequence[Case], candidates: Sequence[Candidate], conditions: Conditions
) -> Iterator[Job]:
    in_rounds = probe.kind != "energy" and probe.metric.replicates == "rounds"  # energy repeats itself in one process
    protocol = conditions.protocol if in_rounds else replace(conditions.protocol, rounds=1)
    for case, candidate in product(_in_passes_of(probe.metric, cases), candidates):
        yield Job(
            case=replace(
                case,
                variant=candidate.name,
                options=candidate.options,
                device=conditions.device,
                seed=conditions.seed,
            ),
            probe=probe,
            protocol=protocol,
            target=candidate.target,
            origin=candidate.origin,
            inputs_path=conditions.captures.get(case.inputs_digest, ""),
        )


def _of_plugin(
    metric: PlannedMetric, cases: Sequence[Case], candidates: Sequence[Candidate], conditions: Conditions
) -> Iterator[Job]:
    """Yield the jobs of a plugin's metric, in every round if rounds repeat it."""
    probe = Probe(kind="metric", declared=metric.declared, metric_origin=metric.origin)
    jobs = [replace(job, metric_target=metric.target) for job in _measured(probe, cases, candidates, conditions)]
    rounds = conditions.protocol.rounds if metric.declared.replicates == "rounds" else 1
    yield from (replace(job, round=number) for number in range(1, rounds + 1) for job in jobs)


def _in_passes_of(metric: Metric, cases: Iterable[Case]) -> Iterator[Case]:
    """Yield cases in the passes in which a metric is measured; some may come twice."""
    for swept, group in groupby(cases, key=lambda case: case.passes):
        block = list(group)
        for passes in passes_of(metric, [swept]):
            yield from (replace(case, passes=passes) for case in block)


def _trainings(candidates: Sequence[Candidate], tasks: Iterable[PlannedTask], conditions: Conditions) -> Iterator[Job]:
    threads = 1 if conditions.device == "cpu" else conditions.protocol.threads
    for task, candidate in product(tasks, candidates):
        training = Job(
            case=Case(
                variant=candidate.name,
                options=candidate.options,
                shape=task.shape,
                mask=task.mask,
                dtype="bfloat16" if conditions.device.startswith("cuda") else "float32",
                device=conditions.device,
                passes="",
                seed=conditions.seed,
            ),
            probe=Probe(
                kind="accuracy",
                task=task.label,
                task_options=task.options,
                task_origin=task.origin,
                scaled=_scaled(candidate, task.shape.seq_k, costed=conditions.costed),
            ),
            protocol=replace(conditions.protocol, rounds=task.seeds, threads=threads),
            target=candidate.target,
            origin=candidate.origin,
            task_target=task.target,
        )
        yield from first_jobs(training)


def _scaled(candidate: Candidate, trained: int, *, costed: int) -> dict[str, Option]:
    """Return a candidate's options at the length of a task, empty where they are its own."""
    options = scaled(candidate.options, candidate.spans, costed=costed, trained=trained)
    return {} if options == candidate.options else options
