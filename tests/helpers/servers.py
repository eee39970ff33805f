"""A fork server that outlives the commands it serves."""

from collections.abc import Mapping
from typing import ClassVar

from attnbench.execute.children import Ended, ForkServer, Heard
from attnbench.execute.messages import Question


class KeptServer:
    """Stand in for a `ForkServer` and keep the real one for the next command: importing torch takes it seconds.

    A server that was lost is lost for good: no test that kills one may use this.
    """

    servers: ClassVar[dict[frozenset[tuple[str, str]], ForkServer]] = {}

    def __init__(self, settings: Mapping[str, str]) -> None:
        key = frozenset(settings.items())
        if key not in self.servers:
            self.servers[key] = ForkServer(settings)
        self._server = self.servers[key]

    def ask(self, question: Question, *, timeout_s: float) -> int:
        """Start a child on a question."""
        return self._server.ask(question, timeout_s=timeout_s)

    def events(self) -> list[Heard | Ended]:
        """Wait until something happened to a child."""
        return self._server.events()

    def close(self) -> None:
        """Keep the server for the next command."""

    @classmethod
    def end_all(cls) -> None:
        """End the servers that were kept."""
        while cls.servers:
            cls.servers.popitem()[1].close()
