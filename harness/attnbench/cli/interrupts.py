"""Ctrl-C and SIGTERM: a prompt within seconds, whatever the command is at.

This module imports little, so that an interrupt is in good hands before the commands are imported.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import NoReturn

# A terminal sends Ctrl-C to all of its programs, and some of them pass it on: within this time it is the same one.
_ECHO_S = 0.5
_PROMPT_WITHIN_S = 2.5
_SHOW_CURSOR = b"\x1b[?25h\r\n"
_SENTENCES = {signal.SIGINT: "attnbench: interrupted", signal.SIGTERM: "attnbench: terminated"}


class Terminated(BaseException):
    """SIGTERM arrived: end as after Ctrl-C, with another exit code."""


def listen() -> None:
    """End in good order at the first signal, and at once at a second one."""
    for number in _SENTENCES:
        signal.signal(number, _stop)


@contextmanager
def in_time() -> Iterator[None]:
    """End in time after a signal even where the main thread is in a library that does not listen."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    ended = threading.Event()
    threading.Thread(target=_end_in_time, args=(read_end, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(-1)
        os.close(write_end)


def _end_in_time(read_end: int, ended: threading.Event) -> None:
    """End the process some time after a signal, unless the command has ended by then."""
    while (received := os.read(read_end, 1)) and received[0] not in _SENTENCES:
        pass
    if received and not ended.wait(_PROMPT_WITHIN_S):
        os.write(2, f"{_SENTENCES[signal.Signals(received[0])]}\n".encode())
        _end(received[0])
    os.close(read_end)


def said(number: signal.Signals) -> int:
    """Print how the command was ended, and return its exit code."""
    print(_SENTENCES[number], file=sys.stderr)
    return 128 + number


@contextmanager
def at_once() -> Iterator[None]:
    """End the process at the first signal, even where a library keeps Python from running; nothing is to clean up."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in _SENTENCES}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    for each in _SENTENCES:
        signal.signal(each, partial(_end_at_once, since=time.monotonic()))
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


def _end_at_once(number: int, _frame: FrameType | None, *, since: float) -> None:
    if time.monotonic() - since > _ECHO_S:
        _end(number)


def _end(number: int) -> NoReturn:
    """End at once. The processes that measure end with this one; what was measured is on the disk."""
    if sys.stderr.isatty():
        os.write(sys.stderr.fileno(), _SHOW_CURSOR)
    os._exit(128 + number)
