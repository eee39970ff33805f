"""The child's side: answer one question, given as JSON, on a private descriptor; the process ends with the answer.

A forked child calls `answer`. A spawned one is `python -m attnbench.execute.worker QUESTION MESSAGES`, two files.
"""

import faulthandler
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import torch

from attnbench.contracts.case import Case
from attnbench.contracts.errors import UsageError
from attnbench.contracts.metrics import ProbeKind
from attnbench.contracts.record import Job, Outcome
from attnbench.contracts.variant import Unsupported
from attnbench.execute import capturing, limits, reading
from attnbench.execute.log import shortened
from attnbench.execute.messages import (
    Answer,
    Bounded,
    Capture,
    DescribeMachine,
    DescribeMetric,
    DescribeModel,
    DescribeTask,
    DescribeVariant,
    MeasureRates,
    Perform,
    Progress,
    Question,
    ReadMatrices,
    ReadTrained,
    TryVariant,
)
from attnbench.measure import agreement, energy, environment, failure, latency, memory, metric, rates, regime
from attnbench.measure.workload import Workload
from attnbench.plugins import describe, registry, sources
from attnbench.pretrained import swap as pretrained_swap
from attnbench.train import accuracy, swap

Report = Callable[[str], None]

_LEAST_FOR_IMPORT = 1 << 30  # a small --memory is meant for a case, not for what a plugin imports

PROBES: dict[ProbeKind, Callable[[Job, Report], Outcome]] = {
    "latency": latency.measure,
    "memory": memory.measure,
    "agreement": agreement.measure,
    "energy": energy.measure,
}


def answer(question: bytes, descriptor: int) -> None:
    """Write messages to the descriptor, a line of JSON each: progress, and last the answer."""
    faulthandler.enable()

    def write(message: Progress | Answer) -> None:
        with os.fdopen(os.dup(descriptor), "wb") as stream:
            stream.write(msgspec.json.encode(message) + b"\n")

    limits.prefer_as_victim()
    asked = msgspec.json.decode(question, type=Question)
    key = asked.key if isinstance(asked, Perform) else ""
    try:
        value = _answer(asked, lambda text: write(Progress(text=text)))
    except UsageError as mistake:
        write(Answer(mistake=failure.words(mistake)))
    else:
        write(Answer(value=msgspec.Raw(msgspec.json.encode(value)), job=key))


def assert_fork_is_safe() -> None:
    """Fail if this process has started a thread or CUDA: a child forked from it could hang."""
    assert not torch.cuda.is_initialized(), "CUDA was initialised before the fork"
    threads = Path("/proc/self/task")
    assert not threads.is_dir() or len(list(threads.iterdir())) == 1, "a thread was started before the fork"


def perform(
    job: Job,
    report: Report,
    *,
    memory_bytes: int | None = None,
    checkpoint: str = "",
    figures: Mapping[str, float] | None = None,
) -> Outcome:
    """Return the outcome of a job, performed in this process; any exception becomes a status with its reason."""
    try:
        _choose_device(job.case.device)
        if job.case.differentiates:
            _warm_gradients()
        if job.case.device == "cpu":
            _warm_threads(job.protocol.threads)
            limits.bound_memory(memory_bytes)
        elif memory_bytes is not None and job.case.device.startswith("cuda"):
            whole = torch.cuda.get_device_properties(job.case.device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, memory_bytes / whole), job.case.device)
        job = _with_scaled_options(job)
        outcome = _measured(job, report, checkpoint=checkpoint, figures=figures or {})
        return msgspec.structs.replace(outcome, facts={**outcome.facts, **regime.facts(job)})
    except Exception as error:
        log = "" if isinstance(error, Unsupported) else "".join(traceback.format_exception(error))
        log = failure.encodable(shortened(log))
        return Outcome(status=failure.status_of(error), detail=failure.reason(error), log=log)


def _measured(job: Job, report: Report, *, checkpoint: str, figures: Mapping[str, float]) -> Outcome:
    if job.probe.kind == "accuracy":
        return accuracy.measure(job, report, checkpoint=Path(checkpoint) if checkpoint else None)
    if job.probe.swap is not None and job.probe.swap.model:
        return pretrained_swap.measure(job, report)
    if job.probe.kind == "swap":
        return swap.measure(job, report, base=Path(job.base_path or checkpoint))
    if job.probe.kind == "metric":
        return metric.measure(job, figures=figures)
    return PROBES[job.probe.kind](job, report)


def _of_known_sources(job: Job, outcome: Outcome, watch: sources.Sources) -> Outcome:
    """Return an outcome with the files that plugins read late; one without figures where they belong to no source."""
    try:
        watch.check()
    except sources.SourceChanged as change:
        return Outcome(status="error", detail=str(change), sources=watch.changed)
    if outcome.status == "ok" and not job.origin.source_hash and watch.hash_of(job.target):
        return Outcome(status="error", detail="its sources were not read before; --resume measures it")
    return msgspec.structs.replace(outcome, sources=watch.later())


def _with_scaled_options(job: Job) -> Job:
    """Return a job with the options that its mechanism is built with at its task's length."""
    if not job.probe.scaled:
        return job
    return msgspec.structs.replace(job, case=msgspec.structs.replace(job.case, options=job.probe.scaled))


def _answer(question: Question, report: Report) -> object:
    if isinstance(question, Bounded):
        _bound(question)
    match question:
        case DescribeVariant(entry=entry, given=given):
            return describe.describe_variant(entry, given)
        case DescribeTask(entry=entry, given=given):
            return describe.describe_task(entry, given)
        case DescribeMetric(entry=entry):
            return describe.describe_metric(entry)
        case DescribeModel(swap=how):
            return pretrained_swap.case_of(how)
        case DescribeMachine(device=device, threads=threads, allocator=allocator):
            return environment.describe_machine(device, threads=threads, allocator=allocator)
        case MeasureRates(device=device, threads=threads, dtypes=dtypes):
            _choose_device(device)
            return rates.measure(device, threads=threads, dtypes=dtypes)
        case TryVariant(target=target, case=case):
            return _try(target, case)
        case ReadMatrices() | ReadTrained():
            return reading.read(question, report)
        case Capture():
            return capturing.capture(question, report)
        case Perform(job=job, memory_bytes=memory_bytes, checkpoint=checkpoint, figures=figures):
            watch = sources.watch(question.sources)
            outcome = perform(job, report, memory_bytes=memory_bytes, checkpoint=checkpoint, figures=figures)
            return _of_known_sources(job, outcome, watch)


def _bound(question: Bounded) -> None:
    """Limit the memory of a plugin's code, unless it is for a GPU, whose driver reserves what it does not use."""
    case, allowed = getattr(question, "case", None), question.memory_bytes
    if isinstance(question, DescribeVariant | DescribeTask | DescribeMetric):
        allowed = None if allowed is None else max(allowed, _LEAST_FOR_IMPORT)
    elif case is not None and case.device.startswith("cuda"):
        return
    else:
        _warm_threads(torch.get_num_threads())
    limits.bound_memory(allowed)


def _try(target: str, case: Case) -> str:
    try:
        _choose_device(case.device)
        workload = Workload(case, registry.load(target), sets=1)
        for call in workload.calls(1):
            call()
        workload.judge()
    except Exception as error:
        return failure.reason(error)
    return ""


def _choose_device(device: str) -> None:
    """Make a CUDA device the current one, the default of events, streams and a plugin's own kernels."""
    if device.startswith("cuda"):
        torch.cuda.set_device(device)


def _warm_threads(threads: int) -> None:
    """Start torch's threads now, so that the limit on memory does not count their stacks as the variant's."""
    torch.set_num_threads(threads)
    torch.ones(threads << 16).sum()  # a thread works on at least 2^15 elements


def _warm_gradients() -> None:
    """Compute a first gradient, so that what torch imports for it is not measured as the variant's time."""
    with torch.enable_grad():
        one = torch.ones((), requires_grad=True)
        torch.autograd.grad(one * 1, one, torch.ones(()))


def _exit_with_the_parent() -> None:
    sys.stdin.buffer.read()  # ends with the parent, which holds the other end of the pipe
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_exit_with_the_parent, daemon=True).start()
    answer(Path(sys.argv[1]).read_bytes(), os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # without waiting for threads that a plugin left behind
