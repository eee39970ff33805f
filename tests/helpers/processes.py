"""What runs on this machine, as /proc tells it."""

from pathlib import Path


def running(mark: str, *, parent: int | None = None, folder: Path | None = None) -> set[int]:
    """Find the processes that carry a mark in their command line and are no zombies.

    Of one parent, or at work in one folder, if they are named: others may run on this machine.
    """
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            its_folder = (process / "cwd").readlink()
            state, its_parent = (process / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if (
            mark.encode() in command
            and state != "Z"
            and parent in (None, int(its_parent))
            and folder in (None, its_folder)
        ):
            found.add(int(process.name))
    return found
