"""A run talks to no network: held by what its processes, the plugins' children among them, ask of the kernel."""

import shutil
import subprocess
from pathlib import Path

import pytest

from helpers.command import SMALL, command, environment

STRACE = shutil.which("strace")


@pytest.mark.exhaustive
@pytest.mark.skipif(STRACE is None, reason="needs strace, which .ci/run installs")
def test_no_process_of_a_run_asks_for_a_socket_of_a_network(tmp_path: Path) -> None:
    def asked(*words: str) -> str:
        log = tmp_path / "sockets"
        traced = [str(STRACE), "-f", "-qq", "-e", "trace=socket,socketpair", "-o", str(log), *words]
        subprocess.run(traced, cwd=tmp_path, env=environment(), check=True, capture_output=True, timeout=120)
        return log.read_text()

    sockets = asked(*command("run", "--variants", "flash", *SMALL, "--metrics", "agreement"))
    assert "AF_UNIX" in sockets, "the server that forks jobs is spoken to by one"
    assert "AF_INET" not in sockets
    assert "AF_INET" in asked(*command()[:2], "import socket; socket.socket()")
