"""The process that the parent starts: it forks the fork server, and outlives it to end every process that is left.

Run as `python -m attnbench.execute.server FD`, where FD is one end of a socket pair (SOCK_SEQPACKET, JSON messages).
It imports nothing large and waits for two things, the end of the parent and the end of the server, so that neither an
import of torch nor a server that is stopped or killed delays the end of their descendants. Linux only.
"""

import json
import os
import select
import signal
import socket
import sys

from attnbench.execute import processes

_END_ALL_S = 60.0


def main() -> None:
    """Fork the server, wait until it or the parent ends, and end all descendants; exit with the server's code."""
    processes.adopt_orphans()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.set_inheritable(False)
    server = os.fork()
    if server == 0:
        _serve(connection)
    until = select.poll()
    until.register(connection, 0)  # without an event to wait for: the other end's closing alone is reported
    until.register(os.pidfd_open(server), select.POLLIN)
    until.poll()
    processes.end(lambda: processes.descendants(os.getpid()), within_s=_END_ALL_S)
    code = os.waitstatus_to_exitcode(os.waitpid(server, 0)[1])
    os._exit(code if code >= 0 else 128 - code)


def _serve(connection: socket.socket) -> None:
    try:
        from attnbench.execute import forking

        forking.settle()
    except Exception as error:
        connection.send(json.dumps({"failed": f"{type(error).__name__}: {error}"[:2000]}).encode())
        os._exit(1)
    forking.serve(connection)


if __name__ == "__main__":
    main()
