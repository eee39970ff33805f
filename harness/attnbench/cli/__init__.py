"""The command line: one short function a command; only this package prints and exits."""

import signal
import sys
from typing import NoReturn

from attnbench.cli import interrupts


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    interrupts.listen()
    try:
        from attnbench.cli import streams

        streams.protect()
        with interrupts.in_time():
            from attnbench.cli.app import guarded

            code = guarded()
    except KeyboardInterrupt:
        code = interrupts.said(signal.SIGINT)
    except interrupts.Terminated:
        code = interrupts.said(signal.SIGTERM)
    sys.exit(code)
