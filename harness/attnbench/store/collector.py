"""Python's cyclic collector, paused where much is made that holds no cycles: its passes cost more than the making."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the collector, unless it is paused already; for a function, as a decorator."""
    paused = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if paused:
            gc.enable()
