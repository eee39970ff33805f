"""Trees of processes on Linux: who is in them, and an end to all of them."""

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_POLL_EVERY_S = 0.001


def adopt_orphans() -> None:
    """Make this process the new parent of all its descendants whose own parent ends: none gets away."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_the_parent() -> None:
    """Have the kernel kill this process when its parent ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def children(pid: int) -> list[int]:
    """Return the children of a process that have not ended."""
    found: list[int] = []
    with suppress(OSError):
        for task in _tasks(pid):
            found += map(int, (task / "children").read_text().split())
    return [child for child in found if not has_ended(child)]


def descendants(pid: int) -> list[int]:
    """Return all descendants of a process that have not ended, the deepest first."""
    found, at = [pid], 0
    while at < len(found):
        found += children(found[at])
        at += 1
    return found[:0:-1]


def has_ended(pid: int) -> bool:
    """Return whether a process has ended. Its first thread may have, while others still hold its children."""
    with suppress(OSError):
        return state(pid) in ("X", "") or (state(pid) == "Z" and len(_tasks(pid)) == 1)
    return True


def state(pid: int) -> str:
    """Return the state of a process as one letter, such as R, S, T for stopped or Z for ended; empty if it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    return ""


def end(find: Callable[[], list[int]], *, within_s: float) -> bool:
    """Kill the processes that `find` returns until it finds none; return whether that took less than `within_s`.

    More than one look is needed: a process that is killed leaves its children to an ancestor.
    """
    deadline = time.monotonic() + within_s
    while found := find():
        if time.monotonic() > deadline:
            return False
        kill(found)
        time.sleep(_POLL_EVERY_S)
    return True


def kill(pids: Iterable[int]) -> None:
    """Kill processes; those that have ended, or are another user's, are passed over."""
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def reaped() -> list[tuple[int, int]]:
    """Reap the children of this process that have ended, orphans among them; return their pids and wait statuses."""
    ended = []
    with suppress(ChildProcessError):
        while (process := os.waitpid(-1, os.WNOHANG))[0]:
            ended.append(process)
    return ended


def _tasks(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/task").iterdir())


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")
