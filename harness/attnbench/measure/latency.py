"""The latency probe: the time of one call of a mechanism, by the protocol, in a process of its own."""

import contextlib
import gc
from collections.abc import Callable

import msgspec
import torch

from attnbench.contracts.case import Option
from attnbench.contracts.record import Job, Measurement, Outcome, Protocol
from attnbench.measure import clocks, counting, honesty, timing
from attnbench.measure.nvml import Gpu
from attnbench.measure.sampling import Clock, Sampling, sample
from attnbench.measure.workload import Workload

_MOST_GRAPHS = 100  # built ahead of a sample of the backward pass: each holds what its forward pass saved

Timed = tuple[Sampling, list[Measurement], dict[str, Option]]  # samples, and what is told of them


def measure(job: Job, report: Callable[[str], None]) -> Outcome:
    """Time a case's pass. Raises Unsupported, and InvalidOutput for a result that is not an attention output.

    If the device was throttled throughout, the outcome is an error: no latency is better than a wrong one.
    """
    del report  # a latency job takes seconds
    before, threads, tasks = clocks.host_state(), torch.get_num_threads(), honesty.tasks()
    workload = Workload.of(job)
    with contextlib.nullcontext() if workload.differentiates else torch.no_grad():
        gc.collect()
        gc.disable()  # a collection in the middle of a sample would be the harness's time, not the mechanism's
        try:
            result, measurements, facts = (_on_cuda if job.case.device.startswith("cuda") else _on_cpu)(job, workload)
        finally:
            gc.enable()
        honesty.check_rest(tasks)
        workload.judge()
        honesty.check_tools(threads)
        if measurements:
            facts |= counting.counts(job, workload, call_ns=float(measurements[0].values[0] or 0))
            honesty.check(workload, result.samples_ns, calls_ns=result.calls_ns)
    facts |= {f"{name}_before": value for name, value in before.items()} | clocks.host_state()
    if not measurements:
        detail = clocks.all_invalid(facts)
        return Outcome(status="error", detail=detail, backend=workload.backend, facts=facts)
    return Outcome(status="ok", measurements=tuple(measurements), backend=workload.backend, facts=facts)


def _on_cpu(job: Job, workload: Workload) -> Timed:
    return _timed(sample(_bounded(timing.cpu_clock(workload.calls, workload.keep), job), job.protocol), ())


def _on_cuda(job: Job, workload: Workload) -> Timed:
    """Time calls on the device, and then by the wall clock, launches included."""
    device, hot = job.case.device, job.protocol.hot
    timer = timing.CudaTimer(workload.calls, workload.keep, device, hot=hot, synchronises=workload.support.synchronises)
    monitor = clocks.Clocks(Gpu(device))
    result = sample(_bounded(timer.clock, job), job.protocol, monitor=monitor)
    _, measurements, facts = _timed(result, timer.flags(len(result.samples_ns)))
    facts |= {"discarded": result.discarded, "invalid_blocks": result.invalid_blocks} | monitor.facts()
    if measurements and result.stop != "once":
        walls = _walls(timer, result.group, job.protocol)
        measurements.append(Measurement(metric="latency_wall", unit="ns", values=walls))
    return result, measurements, facts


def _walls(timer: timing.CudaTimer, group: int, protocol: Protocol) -> tuple[int, ...]:
    walls = [timer.wall(group)]
    while len(walls) < protocol.min_samples and sum(walls) < protocol.min_time_s * 1e9:
        walls.append(timer.wall(group))
    return tuple(round(wall / group) for wall in walls)


def _bounded(clock: Clock, job: Job) -> Clock:
    most = _MOST_GRAPHS if job.case.passes == "backward" else clock.most_grouped
    return msgspec.structs.replace(clock, most_grouped=min(most, clock.most_grouped))


def _timed(result: Sampling, flags: tuple[str, ...]) -> Timed:
    measurements = [
        Measurement(metric="latency", unit="ns", values=result.samples_ns, flags=result.flags + flags),
        Measurement(metric="first_call", unit="ns", values=(result.first_ns,)),
    ]
    return (
        result,
        measurements if result.samples_ns else [],
        {
            "stop": result.stop,
            "group": result.group,
            "warmup_calls": result.warmup_calls,
            "warmup_ns": result.warmup_ns,
            "threads": torch.get_num_threads(),
            "calls_ns": result.calls_ns,
        },
    )
