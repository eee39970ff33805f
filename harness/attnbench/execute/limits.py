"""Bounds that a child sets on itself, so that running out of memory is an exception here and not the machine's end."""

from contextlib import suppress
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_RESERVE_BYTES = 512 << 20


def bound_memory(allowed: int | None) -> None:
    """Limit this process's data segment to what it has plus `allowed` bytes, or plus what the machine has to spare.

    Threads must have been started before, for their stacks count. Does nothing where Linux's /proc is missing.
    """
    spare = available_bytes() if allowed is None else allowed
    if spare is None or resource is None:
        return
    try:
        limit = _proc_kib("/proc/self/status", "VmData") * 1024 + spare
    except OSError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def prefer_as_victim() -> None:
    """Ask the kernel to end this process first, should memory run out all the same."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def available_bytes() -> int | None:
    """Tell how much memory may be taken, less a reserve for the rest of the machine; None where it does not say."""
    try:
        free = _proc_kib("/proc/meminfo", "MemAvailable") * 1024
    except (OSError, KeyError):
        return None
    return max(0, min([free, *_cgroup_free()]) - _RESERVE_BYTES)


def oom_kills() -> int:
    """Count the processes that the kernel has killed for memory since it started; 0 where it does not say."""
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _cgroup_free() -> list[int]:
    """Give what this process's control group (version 2) has left, where it has a limit."""
    with suppress(OSError, ValueError, IndexError):
        group = Path("/proc/self/cgroup").read_text().strip().split("::", 1)[1]
        folder = Path("/sys/fs/cgroup") / group.lstrip("/")
        limit = (folder / "memory.max").read_text().strip()
        if limit != "max":
            return [int(limit) - int((folder / "memory.current").read_text())]
    return []


def _proc_kib(path: str, name: str) -> int:
    for line in Path(path).read_text().splitlines():
        key, _, rest = line.partition(":")
        if key == name:
            return int(rest.split()[0])
    raise KeyError(name)
