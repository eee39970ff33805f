"""The fork server: a process with torch imported that computes nothing and forks a fresh child for each question.

It adopts the orphans of its children, ends every stray with the child that it came from, and all of them when its
socket closes or the guard that forked it ends.
"""

import gc
import json
import os
import select
import signal
import socket
import sys
import traceback
from contextlib import suppress
from importlib import import_module
from typing import NoReturn

from attnbench.execute import processes, worker

_LARGEST_MESSAGE = 1 << 20
_END_STRAYS_S = 2.0
_IMPORTED_FOR_GRADIENTS = "torch.fx.experimental.symbolic_shapes"

Children = dict[int, tuple[int, int]]  # pid -> (id, pidfd)


def serve(connection: socket.socket) -> NoReturn:
    """Serve requests until the other end closes: fork for a question, kill by id, report each child's exit."""
    processes.adopt_orphans()
    guard = os.pidfd_open(os.getppid())
    children: Children = {}
    _send(connection, {"ready": os.getpid()})
    while True:
        watched = [connection.fileno(), guard, *(pidfd for _, pidfd in children.values())]
        ready, _, _ = select.select(watched, [], [])
        request, descriptors = _received(connection) if connection.fileno() in ready else ({"idle": 1}, [])
        if guard in ready or not request:
            processes.end(lambda: processes.descendants(os.getpid()), within_s=_END_STRAYS_S)
            os._exit(0)
        if "kill" in request:
            _kill(request["kill"], children)
            _send(connection, {"id": request["kill"], "killed": 1})
        elif "id" in request:
            _fork(request, descriptors, children, connection)
        _report_exits(children, connection)


def _received(connection: socket.socket) -> tuple[dict[str, int], list[int]]:
    """Return a request and its descriptors; empty where the other end is gone."""
    try:
        message, descriptors, _, _ = socket.recv_fds(connection, _LARGEST_MESSAGE, 3)
    except OSError:
        return {}, []
    return (json.loads(message) if message else {}), descriptors


def _report_exits(children: Children, connection: socket.socket) -> None:
    """Report the children that have ended, once what they have left behind has ended too."""
    for pid, status in processes.reaped():
        if pid in children:
            id_, pidfd = children.pop(pid)
            os.close(pidfd)
            # A child adopts its own orphans, so a process here that is no child was left behind by one that has ended.
            processes.end(lambda: _strays(children), within_s=_END_STRAYS_S)
            _send(connection, {"id": id_, "exit": os.waitstatus_to_exitcode(status)})


def _strays(children: Children) -> list[int]:
    strays = [pid for pid in processes.children(os.getpid()) if pid not in children]
    return [each for stray in strays for each in (*processes.descendants(stray), stray)]


def _kill(id_: int, children: Children) -> None:
    for pid in [pid for pid, (child, _) in children.items() if child == id_]:
        processes.kill([*processes.descendants(pid), pid])


def load_for_gradients() -> None:
    """Import what torch imports at a first gradient, so that not every child takes 0.5 s for it."""
    if _IMPORTED_FOR_GRADIENTS not in sys.modules:
        with suppress(ImportError):  # where another version of torch has moved it, children import it themselves
            import_module(_IMPORTED_FOR_GRADIENTS)
        settle()


def settle() -> None:
    """Check that a fork is safe, and exempt all objects from garbage collection, which would copy them in a child."""
    worker.assert_fork_is_safe()
    gc.collect()
    gc.freeze()


def _fork(request: dict[str, int], descriptors: list[int], children: Children, connection: socket.socket) -> None:
    if request["gradients"]:
        load_for_gradients()
    try:
        pid = os.fork()
    except OSError as error:
        _send(connection, {"id": request["id"], "errno": error.errno or 0, "exit": 1})
    else:
        if pid == 0:
            _become_child(connection, descriptors)
        children[pid] = (request["id"], os.pidfd_open(pid))
        _send(connection, {"id": request["id"], "forked": pid})
    finally:
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
    processes.die_with_the_parent()
    processes.adopt_orphans()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(empty)
    os.close(log)


def _send(connection: socket.socket, message: dict[str, int]) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # the next `select` finds the socket closed
        connection.send(json.dumps(message).encode())
