"""How long jobs take: what their sizes suggest, corrected by what like jobs have taken."""

from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Struct

from attnbench.contracts.case import Case
from attnbench.contracts.record import Job, Record
from attnbench.contracts.task import Training

# Operations per second of attention, and of training small models, on one core and on a GPU. What a machine does is
# learned from its first jobs; these decide what is said before.
_CORE, _CORE_TRAINING, _GPU = 4e10, 3e10, 1e14
_PASSES = {"forward": 1.0, "backward": 2.5, "forward-backward": 3.5, "decode": 1.0}  # operations, the forward's being 1
_AROUND_S = 0.25  # a process, its inputs and its first call
_CALLS = {"memory": 2, "agreement": 12}  # of the mechanism and of exact attention in float64, in forward calls
_TEST_STEPS = 40  # that tests and validations of a training take, as if they were steps
_PRETRAINED_S = 15.0  # a pretrained model, loaded and read twice

Likes = dict[tuple[str, ...], tuple[float, float]]  # seconds that groups of jobs took, and were suggested


def suggested_s(job: Job) -> float:
    """Return the seconds that a job's sizes suggest, as if its mechanism cost what exact attention does."""
    if job.probe.swap is not None and job.probe.swap.model:
        return _PRETRAINED_S
    if not job.timed:
        return _AROUND_S + _training_s(job)
    return _AROUND_S + _calls_s(job, _operations(job.case) / _rate(job))


class Running(Struct, frozen=True, kw_only=True):
    """A job that has run for some seconds, and the share of its steps that it has said to have done, 0 for none."""

    job: Job
    since_s: float
    share: float = 0.0

    def left_s(self, expected_s: float) -> float:
        """Return the seconds left, by the share done, or else by what was expected; a job may take longer than that."""
        if self.share:
            return self.since_s * (1 / self.share - 1)
        return max(expected_s - self.since_s, self.since_s / 4)


class Durations:
    """What jobs are expected to take, given the records so far."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._questions: dict[str, float] = {}
        self._likes: Likes = {}
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Learn from a record. An interrupted job teaches nothing, and of a failed case further rounds are skipped."""
        job, outcome = record.job, record.outcome
        if outcome.status == "interrupted":
            return
        once = any("once" in measurement.flags for measurement in outcome.measurements)
        self._questions[job.question] = 0.0 if once or outcome.status != "ok" else record.seconds
        if outcome.status == "ok":
            _learn(self._likes, job, record.seconds)

    def left_s(self, waiting: Iterable[Job], running: Sequence[Running], *, threads: int) -> float:
        """Return the seconds that jobs still take: timed ones one after the other, trainings one on each thread.

        A training that says how far it is teaches what others like it will take.
        """
        likes = dict(self._likes)
        for each in running:
            if each.share:
                _learn(likes, each.job, each.since_s / each.share)
        timed, trainings = list[float](), list[float]()
        for job in waiting:
            (timed if job.timed else trainings).append(self._expected_s(job, likes))
        for each in running:
            (timed if each.job.timed else trainings).append(each.left_s(self._expected_s(each.job, likes)))
        slots = max(1, min(threads, len(trainings)))
        return sum(timed) + max(sum(trainings) / slots, max(trainings, default=0.0))

    def _expected_s(self, job: Job, likes: Likes) -> float:
        """Return what an earlier round took, else what a job's sizes suggest in proportion to the jobs most like it."""
        known = self._questions.get(job.question)
        if known is not None:
            return known
        taken_s, suggested_sum_s = next((likes[like] for like in _like(job) if like in likes), (1.0, 1.0))
        return suggested_s(job) * taken_s / suggested_sum_s


def _learn(likes: Likes, job: Job, seconds: float) -> None:
    for like in _like(job):
        taken_s, suggested_sum_s = likes.get(like, (0.0, 0.0))
        likes[like] = (taken_s + seconds, suggested_sum_s + suggested_s(job))


def _like(job: Job) -> tuple[tuple[str, ...], ...]:
    """Return the groups of jobs whose durations a job's is in proportion to, the most alike first."""
    kind, variant = job.probe.kind, job.case.variant
    task = job.probe.task or job.case.passes
    return (kind, variant, task), (kind, task), (kind, variant), (kind,)


def _operations(case: Case) -> float:
    """Return the operations of a call of exact attention."""
    shape = case.shape
    visible = 0.5 if case.mask.causal and shape.seq_q > 1 else 1.0
    pairs = shape.batch * shape.heads * shape.seq_q * shape.seq_k * visible
    return 4.0 * pairs * shape.head_dim * _PASSES.get(case.passes, 1.0)


def _rate(job: Job) -> float:
    return _GPU if job.case.device.startswith("cuda") else _CORE * job.protocol.threads


def _calls_s(job: Job, call_s: float) -> float:
    if job.probe.kind in _CALLS:
        return _CALLS[job.probe.kind] * call_s
    protocol = job.protocol
    warming_s = max(protocol.warmup_s, protocol.warmup_calls * call_s)
    return min(protocol.cap_s, warming_s + max(protocol.min_time_s, protocol.min_samples * call_s)) + call_s


def _training_s(job: Job) -> float:
    """Return the seconds of a training: three times a forward pass for each step (Kaplan et al. 2020, section 2.1)."""
    training, swap, shape = _training(job), job.probe.swap, job.case.shape
    weights = training.layers * training.width**2 * (4 + 2 * training.feed_forward)
    tokens = training.batch * shape.seq_q
    attention = training.layers * _operations(job.case) * training.batch / shape.batch
    steps = (training.steps if swap is None else swap.steps) + _TEST_STEPS
    rate = _GPU if job.case.device.startswith("cuda") else _CORE_TRAINING
    return steps * 3 * (2 * weights * tokens + attention) / rate


def _training(job: Job) -> Training:
    """Return a training's options, without the task's own."""
    options = job.probe.task_options
    return msgspec.convert({name: options[name] for name in Training.__struct_fields__ if name in options}, Training)
