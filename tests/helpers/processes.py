"""What runs on this machine, as /proc tells it."""

from pathlib import Path


def running(mark: str, *, parent: int | None = None) -> set[int]:
    """Find the processes that carry a mark in their command line and are no zombies, of one parent if it is named."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            state, its_parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if mark.encode() in command and state != "Z" and parent in (None, int(its_parent)):
            found.add(int(folder.name))
    return found
