"""What the processor and the system around it are, as Linux tells; elsewhere what Python knows. No torch."""

import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from attnbench.contracts.case import Option

_CPUS = Path("/sys/devices/system/cpu")
_NODES = Path("/sys/devices/system/node")
_CPUINFO = Path("/proc/cpuinfo")

# Settings of the libraries that compute and allocate: each may change a number without any code changing.
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
    """Name the processor."""
    return next(_cpuinfo("model name"), "") or platform.processor() or platform.machine()


def cores() -> int:
    """Count the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def memory_bytes() -> int:
    """Give the machine's memory in bytes; 0 where the system does not tell."""
    with suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 0


def facts() -> dict[str, Option]:
    """Tell what of the processor bears on speed: clock, turbo, threads a core, caches, nodes, virtual or not.

    What the system does not tell is left out.
    """
    largest = _text(_CPUS / "cpu0/cpufreq/cpuinfo_max_freq")
    found: dict[str, Option] = {
        "max_mhz": int(largest) // 1000 if largest.isdigit() else None,
        "governor": _text(_CPUS / "cpu0/cpufreq/scaling_governor"),
        "turbo": _turbo(),
        "threads_share_cores": {"1": True, "0": False}.get(_text(_CPUS / "smt/active")),
        "caches": ", ".join(_caches()),
        "numa_nodes": len(list(_NODES.glob("node[0-9]*"))) or None,
        "virtual": "hypervisor" in next(_cpuinfo("flags"), "").split() or None,
        "quota": _quota(),
        "libc": " ".join(platform.libc_ver()).strip(),
    }
    return {name: value for name, value in found.items() if value not in (None, "")}


def variables() -> dict[str, str]:
    """Give the settings of libraries that are in the environment."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(_VARIABLES)}


def _turbo() -> bool | None:
    """Tell whether the clock may rise above its base; None where the system does not say."""
    if off := _text(_CPUS / "intel_pstate/no_turbo"):
        return off == "0"
    return {"1": True, "0": False}.get(_text(_CPUS / "cpufreq/boost"))


def _caches() -> Iterator[str]:
    for index in sorted((_CPUS / "cpu0/cache").glob("index[0-9]*")):
        if _text(index / "type") != "Instruction":
            yield f"L{_text(index / 'level')} {_text(index / 'size')}"


def _quota() -> str | None:
    """Tell how much of the processors a container may use, where it is bounded."""
    used, _, period = _text(Path("/sys/fs/cgroup/cpu.max")).partition(" ")
    return f"{int(used) / int(period):g} cores" if used.isdigit() and period.isdigit() else None


def _cpuinfo(name: str) -> Iterator[str]:
    for line in _text(_CPUINFO).splitlines():
        if line.startswith(name):
            yield line.partition(":")[2].strip()


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
