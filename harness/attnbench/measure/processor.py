"""Facts of the processor and its system, from Linux's /proc and /sys, elsewhere from Python. No torch."""

import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from attnbench.contracts.case import Option

_CPUS = Path("/sys/devices/system/cpu")
_NODES = Path("/sys/devices/system/node")
_CPUINFO = Path("/proc/cpuinfo")

# Environment variables of libraries that compute or allocate: each may change a measurement.
_VARIABLES = (
    "OMP_",
    "KMP_",
    "GOMP_",
    "MKL_",
    "OPENBLAS_",
    "DNNL_",
    "ONEDNN_",
    "TORCH",
    "PYTORCH_",
    "ATEN_",
    "CUDA_",
    "CUBLAS",
    "NVIDIA_",
    "TRITON_",
    "MALLOC_",
    "GLIBC_TUNABLES",
    "LD_PRELOAD",
)


def cpu_model() -> str:
    """Return the processor's model name."""
    return next(_cpuinfo("model name"), "") or platform.processor() or platform.machine()


def cores() -> int:
    """Return the number of logical processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def memory_bytes() -> int:
    """Return the machine's memory in bytes; 0 where unknown."""
    with suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 0


def facts() -> dict[str, Option]:
    """Return the facts that bear on speed: clock, turbo, hyper-threading, caches, NUMA nodes, virtualisation, quota.

    Unknown facts are left out.
    """
    max_khz = _text(_CPUS / "cpu0/cpufreq/cpuinfo_max_freq")
    known: dict[str, Option] = {
        "max_mhz": int(max_khz) // 1000 if max_khz.isdigit() else None,
        "governor": _text(_CPUS / "cpu0/cpufreq/scaling_governor"),
        "turbo": _turbo(),
        "threads_share_cores": {"1": True, "0": False}.get(_text(_CPUS / "smt/active")),
        "caches": ", ".join(_caches()),
        "numa_nodes": len(list(_NODES.glob("node[0-9]*"))) or None,
        "virtual": "hypervisor" in next(_cpuinfo("flags"), "").split() or None,
        "quota": _quota(),
        "libc": " ".join(platform.libc_ver()).strip(),
    }
    return {name: value for name, value in known.items() if value not in (None, "")}


def variables() -> dict[str, str]:
    """Return the environment variables that may change a measurement."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(_VARIABLES)}


def _turbo() -> bool | None:
    """Return whether the clock may rise above its base; None where unknown."""
    if no_turbo := _text(_CPUS / "intel_pstate/no_turbo"):
        return no_turbo == "0"
    return {"1": True, "0": False}.get(_text(_CPUS / "cpufreq/boost"))


def _caches() -> Iterator[str]:
    for index in sorted((_CPUS / "cpu0/cache").glob("index[0-9]*")):
        if _text(index / "type") != "Instruction":
            yield f"L{_text(index / 'level')} {_text(index / 'size')}"


def _quota() -> str | None:
    """Return the container's limit on processor time, if there is one."""
    quota, _, period = _text(Path("/sys/fs/cgroup/cpu.max")).partition(" ")
    return f"{int(quota) / int(period):g} cores" if quota.isdigit() and period.isdigit() else None


def _cpuinfo(name: str) -> Iterator[str]:
    for line in _text(_CPUINFO).splitlines():
        if line.startswith(name):
            yield line.partition(":")[2].strip()


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
