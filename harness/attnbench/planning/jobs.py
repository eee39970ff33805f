"""The jobs of a run, and the order in which they run: a case for every variant, in rounds that are each shuffled."""

import random
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby, product

from msgspec import Struct
from msgspec.structs import replace

from attnbench.contracts.case import Case, Option
from attnbench.contracts.errors import UsageError
from attnbench.contracts.metrics import TRAINED, Metric, ProbeKind, passes_of
from attnbench.contracts.reach import scaled
from attnbench.contracts.record import Job, Probe, Protocol, Swap
from attnbench.contracts.stats import FEWEST_REPLICATES
from attnbench.planning.learning_rates import first_jobs
from attnbench.planning.metrics import PlannedMetric
from attnbench.planning.swaps import PlannedModel, base_for
from attnbench.planning.tasks import PlannedTask
from attnbench.planning.variants import Candidate
from attnbench.plugins.exact import base_of

_IN_ROUNDS: ProbeKind = "latency"


class Conditions(Struct, frozen=True, kw_only=True):
    """What every job of a run has in common. `floor` is timed beside the candidates: the cost of the harness itself.

    `costed` is the longest sequence whose cost is measured, to which trained variants are scaled; 0 where none is.
    `swap` says how exact models are swapped, `model` which pretrained one. `worst` is judged beside the candidates: the
    floor of every quality. `paths` are the files of captured inputs, by the names that cases have for them.
    """

    device: str
    protocol: Protocol
    floor: Candidate
    seed: int = 0
    costed: int = 0
    swap: Swap = Swap()
    model: PlannedModel | None = None
    worst: Candidate | None = None
    paths: dict[str, str] = {}

    def judged(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Return candidates with the floor of quality, the last unless it is asked for."""
        return [*candidates, *([self.worst] if self.worst is not None and self.worst not in candidates else [])]


def plan_jobs(
    cases: Sequence[Case],
    probes: Collection[ProbeKind],
    *,
    candidates: Sequence[Candidate],
    tasks: Iterable[PlannedTask],
    metrics: Iterable[PlannedMetric] = (),
    conditions: Conditions,
    compared: Sequence[Case] | None = None,
) -> tuple[Job, ...]:
    """Return all jobs, variants in the order asked: timed rounds, what is measured once, training, plugins' metrics.

    `compared` are the cases in which agreement is measured, by default those of everything else.
    Raises UsageError where there is nothing to measure.
    """
    timed = list(_timed(cases, candidates, conditions)) if _IN_ROUNDS in probes else []
    rounds = [replace(job, round=number) for number in range(1, conditions.protocol.rounds + 1) for job in timed]
    once = [
        job
        for kind in probes
        if kind not in (_IN_ROUNDS, "agreement", *TRAINED)
        for job in _measured(Probe(kind=kind), cases, candidates, conditions)
    ]
    judged = conditions.judged(candidates)
    if "agreement" in probes:
        once += _measured(Probe(kind="agreement"), cases if compared is None else compared, judged, conditions)
    tasks = tuple(tasks)
    swaps = [*_swaps(judged, tasks, conditions), *_in_a_model(judged, conditions)] if "swap" in probes else []
    bases = {base.key: base for job in swaps if (base := base_of(job))}
    training = list(_trainings(candidates, tasks, conditions)) if "accuracy" in probes else []
    others = [job for metric in metrics for job in _of_plugin(metric, cases, candidates, conditions)]
    # One axis may repeat another's shapes.
    trained = (*bases.values(), *swaps, *training)
    jobs = tuple({job.key: job for job in (*rounds, *once, *trained, *others)}.values())
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
    costed = [candidate for candidate in candidates if candidate.role.costs]
    for case, candidate in product(_in_passes_of(probe.metric, cases), costed):
        yield Job(
            case=replace(
                case,
                variant=candidate.name,
                options=candidate.options_at(case.shape.seq_k),
                device=conditions.device,
                seed=conditions.seed,
            ),
            probe=probe,
            protocol=protocol,
            target=candidate.target,
            origin=candidate.origin,
            inputs_path=conditions.paths.get(case.inputs.rpartition(":")[0], ""),
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


def _swaps(candidates: Sequence[Candidate], tasks: Iterable[PlannedTask], conditions: Conditions) -> Iterator[Job]:
    """Yield the swaps of each task's exact models, one a seed: those that ship for it, or else those the run trains."""
    for task in tasks:
        conditions.swap.check_layers(int(task.options["layers"]))
        base = base_for(task)
        swap = replace(conditions.swap, base=base.digest if base else "")
        seeds = base.seeds if base else task.seeds
        for candidate in candidates:
            job = _on_a_task("swap", candidate, task, conditions)
            job = replace(
                job,
                probe=replace(job.probe, swap=swap),
                protocol=replace(job.protocol, rounds=seeds),
                base_path=str(base.path) if base else "",
            )
            yield from (replace(job, round=seed) for seed in range(1, seeds + 1))


def _in_a_model(candidates: Sequence[Candidate], conditions: Conditions) -> Iterator[Job]:
    """Yield the swaps in the pretrained model, which is one replicate."""
    model = conditions.model
    for candidate in candidates if model is not None else ():
        assert model is not None
        yield Job(
            case=replace(
                model.case,
                variant=candidate.name,
                options=candidate.options_at(model.case.shape.seq_k),
                device=conditions.device,
                seed=conditions.seed,
            ),
            probe=Probe(
                kind="swap",
                task=model.name,
                swap=model.swap,
                scaled=_scaled(candidate, model.case.shape.seq_k, costed=conditions.costed),
            ),
            protocol=replace(conditions.protocol, rounds=1, threads=1),
            target=candidate.target,
            origin=candidate.origin,
        )


def _trainings(candidates: Sequence[Candidate], tasks: Iterable[PlannedTask], conditions: Conditions) -> Iterator[Job]:
    for task, candidate in product(tasks, candidates):
        if candidate.role.tasks is None or task.name in candidate.role.tasks:
            yield from first_jobs(_on_a_task("accuracy", candidate, task, conditions))


def _on_a_task(kind: ProbeKind, candidate: Candidate, task: PlannedTask, conditions: Conditions) -> Job:
    """Return the job of a candidate's first seed on a task; on a CPU it has one thread."""
    return Job(
        case=Case(
            variant=candidate.name,
            options=candidate.options_at(task.shape.seq_k),
            shape=task.shape,
            mask=task.mask,
            dtype="bfloat16" if conditions.device.startswith("cuda") else "float32",
            device=conditions.device,
            passes="",
            seed=conditions.seed,
        ),
        probe=Probe(
            kind=kind,
            task=task.label,
            task_options=task.options,
            task_origin=task.origin,
            scaled=_scaled(candidate, task.shape.seq_k, costed=conditions.costed),
        ),
        protocol=replace(
            conditions.protocol,
            rounds=task.seeds,
            threads=1 if conditions.device == "cpu" else conditions.protocol.threads,
        ),
        target=candidate.target,
        origin=candidate.origin,
        task_target=task.target,
    )


def _scaled(candidate: Candidate, trained: int, *, costed: int) -> dict[str, Option]:
    """Return a candidate's options at the length of a task, empty where they are its own."""
    own = candidate.options_at(trained)
    options = scaled(own, candidate.spans, costed=costed, trained=trained)
    return {} if options == own else options
