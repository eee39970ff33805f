"""attnbench: what each attention mechanism costs at your lengths, heads, hardware and task, and what it gives up."""

from typing import TYPE_CHECKING, Any

from attnbench.case import Case, Mask, Shape
from attnbench.errors import UsageError
from attnbench.task import IGNORE, Form
from attnbench.tunes import Tune
from attnbench.variant import Attention, InvalidOutput, Options, Projections, Support, Unsupported

if TYPE_CHECKING:
    from attnbench.api import Run, build, compare, load, run

__all__ = [
    "IGNORE",
    "Attention",
    "Case",
    "Form",
    "InvalidOutput",
    "Mask",
    "Options",
    "Projections",
    "Run",
    "Shape",
    "Support",
    "Tune",
    "Unsupported",
    "UsageError",
    "build",
    "compare",
    "load",
    "run",
]

_LATER = ("Run", "build", "compare", "load", "run")  # a plugin needs none of them, and they bring numpy and more


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'attnbench' has no attribute {name!r}")
    from attnbench import api

    return getattr(api, name)
