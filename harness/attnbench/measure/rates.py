"""The machine's own rates, which a roofline is made of: how fast it moves memory, and multiplies square matrices."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import torch

from attnbench.contracts.case import Dtype
from attnbench.contracts.record import Rates
from attnbench.measure import failure

Call = Callable[[], object]

_BANDWIDTH_S, _MATRIX_S, _MATRICES_S = 0.4, 0.6, 1.2  # for all copies, one dtype's products, and those of all dtypes
_FEWEST, _MOST = 2, 50  # calls that are timed, after one that is not
# Of each of two arrays. A virtual machine is told of a cache that it shares with all of its host: there is a limit.
_TIMES_CACHE, _LEAST_BYTES, _MOST_BYTES, _CUDA_BYTES = 4, 64 << 20, 256 << 20, 1 << 30
# What waits until a device, which is the current one of its kind, has done what it was told.
_WAITED_FOR: dict[str, Callable[[], None]] = {"cpu": lambda: None, "cuda": torch.cuda.synchronize}
_CPU_SIZES, _CUDA_SIZES = (256, 512, 1024, 2048), (1024, 4096, 8192)


def measure(device: str, *, threads: int, dtypes: Sequence[Dtype]) -> Rates:
    """Measure a device's bandwidth and its matrix rate in each dtype: the best of several calls each, in 1 to 3 s.

    What fails is null, and `reason` says why.
    """
    if device.partition(":")[0] not in _WAITED_FOR:
        return Rates(device=device, threads=threads, reason=f"{device} is not measured yet")
    torch.set_num_threads(threads)
    reasons: list[str] = []

    def attempt(what: str, rate: Callable[[], float]) -> float | None:
        try:
            return rate()
        except Exception as error:
            reasons.append(f"{what}: {failure.reason(error)}")
            return None

    budget_s = min(_MATRIX_S, _MATRICES_S / max(1, len(dtypes)))
    return Rates(
        device=device,
        threads=threads,
        bytes_per_s=attempt("bandwidth", partial(bandwidth, device)),
        flops_per_s={dtype: attempt(dtype, partial(matrix_rate, device, dtype, budget_s)) for dtype in dtypes},
        reason="; ".join(reasons),
    )


def bandwidth(device: str) -> float:
    """Give bytes per second, read and written: the better of STREAM's copy and a sum in place (McCalpin 1995)."""
    size = _array_bytes(device)
    a, b = (torch.ones(size // 4, device=device) for _ in range(2))
    copy_s = best_s(partial(a.copy_, b), device, budget_s=_BANDWIDTH_S / 2)
    sum_s = best_s(partial(a.add_, b, alpha=0.5), device, budget_s=_BANDWIDTH_S / 2)
    return max(2 * size / copy_s, 3 * size / sum_s)


def matrix_rate(device: str, dtype: Dtype, budget_s: float) -> float:
    """Give the FLOP/s of a product of square matrices: the best of the sizes of which a few calls fit the budget."""
    sizes = _CUDA_SIZES if device.startswith("cuda") else _CPU_SIZES
    rates: list[float] = []
    for size in sizes:
        flops = 2 * size**3
        if rates and (_FEWEST + 1) * flops / rates[-1] > budget_s:
            break
        a, b = (torch.randn(size, size, device=device).to(getattr(torch, dtype)) for _ in range(2))
        rates.append(flops / best_s(partial(torch.mm, a, b, out=torch.empty_like(a)), device, budget_s=budget_s / 3))
    return max(rates)


def best_s(call: Call, device: str, *, budget_s: float) -> float:
    """Give the seconds of the fastest of several calls, the first of which is not counted."""
    wait = _WAITED_FOR[device.partition(":")[0]]
    call()
    wait()
    times: list[float] = []
    while len(times) < _FEWEST or (sum(times) < budget_s and len(times) < _MOST):
        start = time.perf_counter()
        call()
        wait()
        times.append(time.perf_counter() - start)
    return min(times)


def _array_bytes(device: str) -> int:
    """Choose arrays larger than the last-level cache, so that memory is what is measured."""
    if device.startswith("cuda"):
        return _CUDA_BYTES
    cache = 0
    with suppress(ValueError, OSError, AttributeError):  # not every system tells
        cache = os.sysconf("SC_LEVEL3_CACHE_SIZE")
    return min(_MOST_BYTES, max(_LEAST_BYTES, _TIMES_CACHE * cache))
