"""The child's side: one question, read as JSON, is answered on a private descriptor; nothing survives the answer."""

import faulthandler
import os
import traceback
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch

from attnbench.contracts.case import Case
from attnbench.contracts.errors import UsageError
from attnbench.contracts.metrics import ProbeKind
from attnbench.contracts.record import Job, Outcome
from attnbench.contracts.variant import Unsupported
from attnbench.execute import limits, reading
from attnbench.execute.messages import (
    Answered,
    DescribeMachine,
    DescribeTask,
    DescribeVariant,
    MeasureRates,
    Perform,
    Question,
    ReadMatrices,
    ReadTrained,
    Told,
    TryVariant,
)
from attnbench.measure import agreement, energy, environment, failure, latency, memory, rates
from attnbench.measure.workload import Workload
from attnbench.plugins import describe, registry
from attnbench.train import accuracy

Tell = Callable[[str], None]

PROBES: dict[ProbeKind, Callable[[Job, Tell], Outcome]] = {
    "latency": latency.measure,
    "memory": memory.measure,
    "agreement": agreement.measure,
    "energy": energy.measure,
}


def answer(question: bytes, result: int) -> None:
    """Answer one question: lines of JSON on the descriptor `result`, the last of them the answer."""
    faulthandler.enable()

    def write(line: Told | Answered) -> None:
        with os.fdopen(os.dup(result), "wb") as stream:
            stream.write(msgspec.json.encode(line) + b"\n")

    try:
        reply = _reply(msgspec.json.decode(question, type=Question), lambda text: write(Told(text=text)))
    except UsageError as mistake:
        write(Answered(mistake=str(mistake)))
    else:
        write(Answered(answer=msgspec.Raw(msgspec.json.encode(reply))))


def assert_fork_is_safe() -> None:
    """Stop a server that has started a thread or CUDA: a child forked from it could hang."""
    assert not torch.cuda.is_initialized(), "CUDA was initialised before the fork"
    threads = Path("/proc/self/task")
    assert not threads.is_dir() or len(list(threads.iterdir())) == 1, "a thread was started before the fork"


def perform(job: Job, tell: Tell, *, memory_bytes: int | None = None, checkpoint: str = "") -> Outcome:
    """Do a job in this process, and turn whatever goes wrong into a status with its reason."""
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
        if job.probe.kind == "accuracy":
            return accuracy.measure(job, tell, checkpoint=Path(checkpoint) if checkpoint else None)
        return PROBES[job.probe.kind](job, tell)
    except Exception as error:
        log = "" if isinstance(error, Unsupported) else failure.encodable("".join(traceback.format_exception(error)))
        return Outcome(status=failure.status_of(error), detail=failure.reason(error), log=log)


def _reply(question: Question, tell: Tell) -> object:
    match question:
        case DescribeVariant(entry=entry, given=given):
            return describe.describe_variant(entry, given)
        case DescribeTask(entry=entry, given=given):
            return describe.describe_task(entry, given)
        case DescribeMachine(device=device, threads=threads, allocator=allocator):
            return environment.describe_machine(device, threads=threads, allocator=allocator)
        case MeasureRates(device=device, threads=threads, dtypes=dtypes):
            _choose_device(device)
            return rates.measure(device, threads=threads, dtypes=dtypes)
        case TryVariant(target=target, case=case):
            return _try(target, case)
        case ReadMatrices() | ReadTrained():
            return reading.read(question, tell)
        case Perform(job=job, memory_bytes=memory_bytes, checkpoint=checkpoint):
            limits.prefer_as_victim()
            return perform(job, tell, memory_bytes=memory_bytes, checkpoint=checkpoint)


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
    """Make a CUDA device the current one: events, streams and a plugin's own kernels go there unless told otherwise."""
    if device.startswith("cuda"):
        torch.cuda.set_device(device)


def _warm_threads(threads: int) -> None:
    """Start torch's threads now: their stacks belong to what the process has, not to what the variant takes."""
    torch.set_num_threads(threads)
    torch.ones(threads << 16).sum()  # torch gives a thread no less than 2^15 elements


def _warm_gradients() -> None:
    """Compute a gradient that is nobody's: what torch does and imports at its first one is not the variant's time."""
    with torch.enable_grad():
        one = torch.ones((), requires_grad=True)
        torch.autograd.grad(one * 1, one, torch.ones(()))
