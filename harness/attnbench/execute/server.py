"""The fork server: a process that has torch imported, computes nothing, and forks one fresh child for each question.

Run as `python -m attnbench.execute.server FD`, where FD is its end of a socket pair (SOCK_SEQPACKET, JSON messages).
Linux only: it is the subreaper of all that its children start, and when its socket closes it kills them all.
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
_FOR_GRADIENTS = "torch.fx.experimental.symbolic_shapes"


def serve(connection: socket.socket) -> None:
    """Answer requests until the other end closes: fork for a question, kill for an id, tell each child's exit."""
    children: dict[int, tuple[int, int]] = {}  # pid -> (id, pidfd)
    while True:
        watched = [connection.fileno(), *(pidfd for _, pidfd in children.values())]
        ready, _, _ = select.select(watched, [], [])
        if connection.fileno() in ready:
            message, descriptors, _, _ = socket.recv_fds(connection, _LARGEST_MESSAGE, 3)
            if not message:
                _kill_strays(keep=set())
                os._exit(0)
            _handle(json.loads(message), descriptors, children, connection)
        for pid, status in _reaped():
            if pid in children:
                name, pidfd = children.pop(pid)
                os.close(pidfd)
                if not children:  # whose a stray is cannot be told while another job runs
                    _kill_strays(keep=set())
                _send(connection, {"id": name, "exit": os.waitstatus_to_exitcode(status)})


def load_for_gradients() -> None:
    """Import what torch itself imports at a first gradient: each child would take 0.5 s for it."""
    if _FOR_GRADIENTS not in sys.modules:
        with suppress(ImportError):  # another torch keeps it elsewhere: then it is the children that import it
            import_module(_FOR_GRADIENTS)
        _settle()


def _settle() -> None:
    """Make sure that a fork is safe, and leave what is imported to no collector: a child would copy it."""
    worker.assert_fork_is_safe()
    gc.collect()
    gc.freeze()


def _handle(
    request: dict[str, int], descriptors: list[int], children: dict[int, tuple[int, int]], connection: socket.socket
) -> None:
    if "kill" in request:
        for pid in [pid for pid, (name, _) in children.items() if name == request["kill"]]:
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
    """Answer one question in a session of its own, and never return."""
    code = 1
    try:
        connection.close()
        question, result, log = descriptors
        os.set_inheritable(result, False)
        _detach(log)
        with os.fdopen(question, "rb") as stream:
            text = stream.read()
        worker.answer(text, result)
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _detach(log: int) -> None:
    os.setsid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(nothing)
    os.close(log)


def _reaped() -> list[tuple[int, int]]:
    found = []
    with suppress(ChildProcessError):
        while (pair := os.waitpid(-1, os.WNOHANG))[0]:
            found.append(pair)
    return found


def _kill_strays(keep: set[int]) -> None:
    """Kill every descendant that belongs to no running job, until none is left: orphans come to us to be reaped."""
    for _ in range(1000):
        strays = [pid for pid in _children(os.getpid()) if pid not in keep]
        if not strays:
            return
        _kill([one for pid in strays for one in (*_descendants(pid), pid)])
        for pid in strays:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.0005)


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def _descendants(pid: int) -> list[int]:
    children = _children(pid)
    return [one for child in children for one in (*_descendants(child), child)]


def _send(connection: socket.socket, message: dict[str, int]) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # the next select finds the socket closed
        connection.send(json.dumps(message).encode())


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def main() -> None:
    """Become a server: one thread, no CUDA, deaf to the terminal's signals."""
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
