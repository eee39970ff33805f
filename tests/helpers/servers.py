"""A fork server that outlives the commands it serves."""

import os
from collections.abc import Mapping
from typing import Any, ClassVar

from attnbench.execute.children import ForkServer


class KeptServer:
    """Stand in for a `ForkServer` and keep the real one for the next command: importing torch takes it seconds.

    A server that was lost is lost for good: no test that kills one may use this.
    """

    kept: ClassVar[dict[frozenset[tuple[str, str]], ForkServer]] = {}

    def __init__(self, environ: Mapping[str, str]) -> None:
        settings = frozenset({"PYTHONPATH": os.environ.get("PYTHONPATH", ""), **environ}.items())
        if settings not in self.kept:
            self.kept[settings] = ForkServer(environ)
        self._server = self.kept[settings]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    def close(self) -> None:
        """Leave the server as it is."""

    @classmethod
    def end_all(cls) -> None:
        """End the servers that were kept."""
        while cls.kept:
            cls.kept.popitem()[1].close()
