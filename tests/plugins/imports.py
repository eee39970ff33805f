"""Mechanisms that end at their second call, and tell what happened in their process until then."""

import gc
import sys

from attnbench import Case

KNOWN, FROZEN = {*sys.modules}, gc.get_freeze_count()


class Imported:
    """Tells what was imported by a first call, with its gradients."""

    def __init__(self, case: Case) -> None:
        self.calls = 0

    def __call__(self, q, k, v):
        self.calls += 1
        if self.calls > 1:
            raise RuntimeError(self.told())
        return v * 1

    def told(self):
        return f"imported: {' '.join(sorted({*sys.modules} - KNOWN))}."


class Inherited(Imported):
    """Tells how many objects the process was forked with."""

    def told(self):
        return f"inherited: {FROZEN}"
