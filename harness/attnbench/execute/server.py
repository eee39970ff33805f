"""The fork server: a process with torch imported that computes nothing and forks a fresh child for each question.

Run as `python -m attnbench.execute.server FD`, where FD is its end of a socket pair (SOCK_SEQPACKET, JSON messages).
Linux only: it is the subreaper of every process that its children start, and kills them all when its socket closes.
"""

import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from attnbench.execute import worker

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LARGEST_MESSAGE = 1 << 20
_IMPORTED_FOR_GRADIENTS = "torch.fx.experimental.symbolic_shapes"


def serve(connection: socket.socket) -> None:
    """Serve requests until the other end closes: fork for a question, kill by id, report each child's exit."""
    children: dict[int, tuple[int, int]] = {}  # pid -> (id, pidfd)
    while True:
        watched = [connection.fileno(), *(pidfd for _, pidfd in children.values())]
        ready, _, _ = select.select(watched, [], [])
        if connection.fileno() in ready:
            message, descriptors, _, _ = socket.recv_fds(connection, _LARGEST_MESSAGE, 3)
            if not message:
                _kill_strays()
                os._exit(0)
            _handle(json.loads(message), descriptors, children, connection)
        for pid, status in _reaped():
            if pid in children:
                id_, pidfd = children.pop(pid)
                os.close(pidfd)
                if not children:  # while another job runs, a stray process may be its
                    _kill_strays()
                _send(connection, {"id": id_, "exit": os.waitstatus_to_exitcode(status)})


def load_for_gradients() -> None:
    """Import what torch imports at a first gradient, so that not every child takes 0.5 s for it."""
    if _IMPORTED_FOR_GRADIENTS not in sys.modules:
        with suppress(ImportError):  # where another version of torch has moved it, children import it themselves
            import_module(_IMPORTED_FOR_GRADIENTS)
        _settle()


def _settle() -> None:
    """Check that a fork is safe, and exempt all objects from garbage collection, which would copy them in a child."""
    worker.assert_fork_is_safe()
    gc.collect()
    gc.freeze()


def _handle(
    request: dict[str, int], descriptors: list[int], children: dict[int, tuple[int, int]], connection: socket.socket
) -> None:
    if "kill" in request:
        for pid in [pid for pid, (id_, _) in children.items() if id_ == request["kill"]]:
            _kill([*_descendants(pid), pid])
        return
    if request["gradients"]:
        load_for_gradients()
    pid = os.fork()
    if pid == 0:
        _become_child(connection, descriptors)
    children[pid] = (request["id"], os.pidfd_open(pid))
    for descriptor in descriptors:
        os.close(descriptor)


def _become_child(connection: socket.socket, descriptors: list[int]) -> NoReturn:
    """Answer one question in a session of its own, and exit."""
    code = 1
    try:
        connection.close()
        question, messages, log = descriptors
        os.set_inheritable(messages, False)
        _detach(log)
        with os.fdopen(question, "rb") as stream:
            text = stream.read()
        worker.answer(text, messages)
        code = 0
    except SystemExit as exiting:
        code = exiting.code if isinstance(exiting.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _detach(log: int) -> None:
    """Leave the server's session, die with the server, and write all output to the log."""
    os.setsid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(empty)
    os.close(log)


def _reaped() -> list[tuple[int, int]]:
    """Reap the processes that have ended, orphans among them; return their pids and wait statuses."""
    ended = []
    with suppress(ChildProcessError):
        while (process := os.waitpid(-1, os.WNOHANG))[0]:
            ended.append(process)
    return ended


def _kill_strays() -> None:
    """Kill every descendant until none is left: those whose parent dies become this subreaper's children."""
    for _ in range(1000):
        strays = _children(os.getpid())
        if not strays:
            return
        _kill([pid for stray in strays for pid in (*_descendants(stray), stray)])
        for stray in strays:
            with suppress(ChildProcessError):
                os.waitpid(stray, os.WNOHANG)
        time.sleep(0.0005)


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    children: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += map(int, (task / "children").read_text().split())
    return children


def _descendants(pid: int) -> list[int]:
    """Return all descendants, the deepest first."""
    return [descendant for child in _children(pid) for descendant in (*_descendants(child), child)]


def _send(connection: socket.socket, message: dict[str, int]) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # the next `select` finds the socket closed
        connection.send(json.dumps(message).encode())


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def main() -> None:
    """Serve with one thread and no CUDA, ignoring the terminal's signals."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.set_inheritable(False)
    _settle()
    _send(connection, {"ready": os.getpid()})
    serve(connection)


if __name__ == "__main__":
    main()
