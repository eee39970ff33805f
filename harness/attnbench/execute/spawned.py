"""A process that answers one question: `python -m attnbench.execute.spawned QUESTION ANSWERS`, both paths of files."""

import os
import sys
import threading
from pathlib import Path

from attnbench.execute import worker


def _end_with_the_parent() -> None:
    """Wait for the end of standard input, which is the parent's end."""
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    worker.answer(Path(sys.argv[1]).read_bytes(), os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads that a plugin left behind are not waited for
