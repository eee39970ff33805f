"""The latency probe: how long one call of a mechanism takes, by the protocol, in a process of its own."""

import contextlib
import gc
from collections.abc import Callable

import msgspec
import torch

from attnbench.measure import timing
from attnbench.measure.sampling import Clock, sample
from attnbench.measure.workload import Workload
from attnbench.record import Job, Measurement, Outcome

_MOST_GRAPHS = 100  # of a backward pass, built ahead of a sample: each holds what its forward pass saved


def measure(job: Job, tell: Callable[[str], None]) -> Outcome:
    """Time a case's pass. Raises Unsupported, and InvalidOutput where the result is no attention output."""
    del tell  # a latency job is over in seconds
    workload = Workload.of(job)
    with contextlib.nullcontext() if workload.differentiates else torch.no_grad():
        clock = _clock(job, workload)
        gc.collect()
        gc.disable()  # a collection in the middle of a sample would be ours, not the mechanism's
        result = sample(clock, job.protocol)
        workload.judge()
    return Outcome(
        status="ok",
        measurements=(
            Measurement(metric="latency", unit="ns", values=result.samples_ns, flags=result.flags),
            Measurement(metric="first_call", unit="ns", values=(result.first_ns,)),
        ),
        backend=workload.backend,
        facts={
            "stop": result.stop,
            "group": result.group,
            "warmup_calls": result.warmup_calls,
            "threads": torch.get_num_threads(),
            "calls_ns": result.calls_ns,
        },
    )


def _clock(job: Job, workload: Workload) -> Clock:
    if job.case.device.startswith("cuda"):
        synchronises = workload.support.synchronises
        clock = timing.cuda_clock(workload.calls, job.case.device, hot=job.protocol.hot, synchronises=synchronises)
    else:
        clock = timing.cpu_clock(workload.calls)
    most = _MOST_GRAPHS if job.case.passes == "backward" else clock.most_grouped
    return msgspec.structs.replace(clock, most_grouped=most)
