"""The machine's own rates, for the roofline: memory bandwidth, and FLOP/s of a product of square matrices."""

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
_FEWEST, _MOST = 2, 50  # timed calls, after one that is not timed
# Sizes of each of two arrays. The limit is for virtual machines, which report a cache shared with all of their host.
_TIMES_CACHE, _LEAST_BYTES, _MOST_BYTES, _CUDA_BYTES = 4, 64 << 20, 256 << 20, 1 << 30
# Waits for the current device of a kind.
_SYNCHRONISE: dict[str, Callable[[], None]] = {"cpu": lambda: None, "cuda": torch.cuda.synchronize}
_CPU_SIZES, _CUDA_SIZES = (256, 512, 1024, 2048), (1024, 4096, 8192)


def measure(device: str, *, threads: int, dtypes: Sequence[Dtype]) -> Rates:
    """Measure a device's bandwidth and its matrix rate in each dtype, the best of several calls each, in 1 to 3 s.

    A rate that cannot be measured is null, with the reason in `reason`.
    """
    if device.partition(":")[0] not in _SYNCHRONISE:
        return Rates(device=device, threads=threads, reason=f"{device} is not measured yet")
    torch.set_num_threads(threads)
    reasons: list[str] = []

    def attempt(name: str, rate: Callable[[], float]) -> float | None:
        try:
            return rate()
        except Exception as error:
            reasons.append(f"{name}: {failure.reason(error)}")
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
    """Return bytes per second, read and written: the better of STREAM's copy and a sum in place (McCalpin 1995)."""
    size = _array_bytes(device)
    a, b = (torch.ones(size // 4, device=device) for _ in range(2))
    copy_s = best_s(partial(a.copy_, b), device, budget_s=_BANDWIDTH_S / 2)
    sum_s = best_s(partial(a.add_, b, alpha=0.5), device, budget_s=_BANDWIDTH_S / 2)
    return max(2 * size / copy_s, 3 * size / sum_s)


def matrix_rate(device: str, dtype: Dtype, budget_s: float) -> float:
    """Return the FLOP/s of a product of square matrices: the best over the sizes whose calls fit the budget."""
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
    """Return the seconds of the fastest of several calls, after one that is not timed."""
    synchronise = _SYNCHRONISE[device.partition(":")[0]]
    call()
    synchronise()
    times: list[float] = []
    while len(times) < _FEWEST or (sum(times) < budget_s and len(times) < _MOST):
        start = time.perf_counter()
        call()
        synchronise()
        times.append(time.perf_counter() - start)
    return min(times)


def _array_bytes(device: str) -> int:
    """Return a size larger than the last-level cache, so that memory is measured."""
    if device.startswith("cuda"):
        return _CUDA_BYTES
    cache = 0
    with suppress(ValueError, OSError, AttributeError):  # not every system knows it
        cache = os.sysconf("SC_LEVEL3_CACHE_SIZE")
    return min(_MOST_BYTES, max(_LEAST_BYTES, _TIMES_CACHE * cache))
