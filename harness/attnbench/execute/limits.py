"""Memory limits that a child sets on itself, so that exhausting memory is an exception and spares the machine."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_RESERVE_BYTES = 512 << 20


def bound_memory(allowed: int | None) -> None:
    """Limit this process's data segment to its present size plus `allowed` bytes (default: what the machine can spare).

    Start threads before: their stacks are part of the data segment. Does nothing without Linux's /proc.
    """
    headroom = available_bytes() if allowed is None else allowed
    if headroom is None or resource is None:
        return
    try:
        limit = _proc_kib("/proc/self/status", "VmData") * 1024 + headroom
    except OSError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def prefer_as_victim() -> None:
    """Ask the kernel to kill this process first if the machine runs out of memory."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def available_bytes() -> int | None:
    """Return the bytes of memory that are free, less a reserve for the rest of the machine; None where unknown."""
    try:
        free = _proc_kib("/proc/meminfo", "MemAvailable") * 1024
    except (OSError, KeyError):
        return None
    return max(0, min([free, *_cgroup_free()]) - _RESERVE_BYTES)


def oom_kills() -> int:
    """Return how many processes the kernel has killed for memory since it started; 0 where unknown."""
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _cgroup_free() -> list[int]:
    """Return the bytes left in each control group (version 1 or 2) of this process that has a limit.

    File pages that the kernel can drop are not counted as used: a container full of cache would seem to have no room.
    """
    free = []
    for folder, limit, used, cache in _cgroup_files():
        with suppress(OSError, ValueError):  # the limit "max" is not a number: there is none
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            droppable = int(stat.get(cache, 0))
            free.append(int((folder / limit).read_text()) - int((folder / used).read_text()) + droppable)
    return free


def _cgroup_files() -> Iterator[tuple[Path, str, str, str]]:
    """Yield this process's groups from its own upwards: folder, and the names of the limit, the use and the cache."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if not controllers:
                root, names = Path("/sys/fs/cgroup"), ("memory.max", "memory.current", "inactive_file")
            elif "memory" in controllers.split(","):
                root = Path("/sys/fs/cgroup/memory")
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            else:
                continue
            own = root / group.lstrip("/")
            for folder in (own, *own.parents):
                if folder.is_relative_to(root):
                    yield folder, *names


def _proc_kib(path: str, name: str) -> int:
    for line in Path(path).read_text().splitlines():
        key, _, rest = line.partition(":")
        if key == name:
            return int(rest.split()[0])
    raise KeyError(name)
