"""The environment of a run: software, processor, memory and device. For child processes: it imports torch."""

import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import torch

import attnbench
from attnbench.contracts.case import DTYPES, Option
from attnbench.contracts.errors import UsageError
from attnbench.contracts.record import Allocator, Environment
from attnbench.measure import processor

# Packages that may change a measurement while attnbench stays the same.
_PACKAGES = ("numpy", "triton", "xformers", "flash-attn", "flash-attn-3", "flash-attn-4", "fla-core", "nvidia-ml-py")


def describe_machine(device: str, *, threads: int, allocator: Allocator) -> Environment:
    """Return the environment of this machine and one of its devices ('auto': CUDA if present, else the CPU).

    Raises UsageError naming --device for a device that does not exist here.
    """
    name = resolve_device(device)
    facts = _cuda_facts(name) if name.startswith("cuda") else {}
    commit, dirty = _commit()
    return Environment(
        attnbench=version("attnbench"),
        commit=commit,
        dirty=dirty,
        python=platform.python_version(),
        torch=str(torch.__version__),
        packages=_installed(),
        flags=_flags(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=processor.cpu_model(),
        cpu_facts=processor.facts(),
        variables=processor.variables(),
        cores=processor.cores(),
        memory_bytes=processor.memory_bytes(),
        device=name,
        device_name=_device_name(name),
        device_memory_bytes=torch.cuda.get_device_properties(name).total_memory if facts else None,
        device_dtypes=_dtypes(name),
        device_facts=facts,
        driver=_driver() if facts else None,
        threads=threads,
        allocator=allocator,
    )


def resolve_device(device: str) -> str:
    """Return the device that a --device value names: 'cpu', 'cuda:0', 'mps'. Raises UsageError if it does not exist."""
    kind, _, index = device.partition(":")
    if kind == "cpu" and not index:
        return "cpu"
    if kind == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if kind == "mps" and not index:
        if torch.backends.mps.is_available():
            return "mps"
        raise UsageError("--device: this machine has no mps device; use --device cpu")
    if kind != "cuda" or not (index or "0").isdigit():
        raise UsageError(f"--device: {device!r} is not a device; write auto, cpu, cuda, cuda:1 or mps")
    count = torch.cuda.device_count()
    if int(index or 0) >= count:
        there = f"only cuda:0 to cuda:{count - 1}" if count else "no CUDA device"
        raise UsageError(f"--device: there is no {device} here ({there}); use --device {'cuda:0' if count else 'cpu'}")
    return f"cuda:{int(index or 0)}"


def _installed() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _flags() -> dict[str, Option]:
    """Return torch's settings that change speed or rounding."""
    return {
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "mkl": torch.backends.mkl.is_available(),
        "mkldnn": torch.backends.mkldnn.is_available(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "blas": str(torch.__config__.show().partition("BLAS_INFO=")[2].partition(",")[0]),
        "openmp": torch.backends.openmp.is_available(),
    }


def _device_name(name: str) -> str:
    return torch.cuda.get_device_name(name) if name.startswith("cuda") else processor.cpu_model()


def _dtypes(name: str) -> tuple[str, ...]:
    """Return the device's dtypes: bfloat16 requires compute capability 8, and mps has no float64."""
    lacking = set()
    if name == "mps":
        lacking = {"float64"}
    elif name.startswith("cuda") and torch.cuda.get_device_capability(name) < (8, 0):
        lacking = {"bfloat16"}
    return tuple(dtype for dtype in DTYPES if dtype not in lacking)


def _cuda_facts(name: str) -> dict[str, Option]:
    device = torch.cuda.get_device_properties(name)
    return {
        "cuda": torch.version.cuda,
        "capability": f"{device.major}.{device.minor}",
        "multiprocessors": device.multi_processor_count,
        "l2_bytes": device.L2_cache_size,
        "cudnn": torch.backends.cudnn.version(),
    }


def _driver() -> str | None:
    """Return the driver's version by NVML, None where NVML cannot be used."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except Exception:
        return None


def _commit() -> tuple[str | None, bool | None]:
    """Return the git commit of this code, and whether files differ from it; None outside a checkout."""
    harness = Path(attnbench.__file__).resolve().parent
    if (harness.parents[1] / "pyproject.toml").is_file() and distribution("attnbench"):
        with suppress(OSError, subprocess.CalledProcessError, subprocess.TimeoutExpired):
            return _git(harness, "rev-parse", "HEAD"), bool(_git(harness, "status", "--porcelain", "--", "."))
    return None, None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout.strip()
