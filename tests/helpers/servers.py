"""A fork server that outlives the commands it serves."""

import os
from collections.abc import Mapping
from typing import Any, ClassVar

from attnbench.execute.children import Message, ServerLost
from attnbench.execute.forkserver import ForkServer


class KeptServer:
    """Stand in for a `ForkServer` and keep the real one for the next command: importing torch takes it seconds."""

    kept: ClassVar[dict[frozenset[tuple[str, str]], ForkServer]] = {}

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._settings = frozenset({"PYTHONPATH": os.environ.get("PYTHONPATH", ""), **environ}.items())
        if self._settings not in self.kept:
            self.kept[self._settings] = ForkServer(environ)
        self._server = self.kept[self._settings]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    def receive(self) -> list[Message]:
        """Receive from the server; one that a test has killed is kept no longer."""
        try:
            return self._server.receive()
        except ServerLost:
            self.kept.pop(self._settings, None)
            raise

    def close(self) -> None:
        """Leave the server as it is, unless it was lost."""
        if self._settings not in self.kept:
            self._server.close()

    @classmethod
    def end_all(cls) -> None:
        """End the servers that were kept."""
        while cls.kept:
            cls.kept.popitem()[1].close()
