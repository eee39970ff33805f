"""attnbench: what each attention mechanism costs at your lengths, heads, hardware and task, and what it gives up."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from attnbench.contracts.case import Case, Mask, Shape
from attnbench.contracts.errors import UsageError
from attnbench.contracts.task import IGNORE, Form
from attnbench.contracts.tunes import Tune
from attnbench.contracts.variant import Attention, InvalidOutput, Options, Projections, Support, Unsupported

if TYPE_CHECKING:
    from attnbench.api import build, compare, resume, run
    from attnbench.runs import Run, load

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
    "resume",
    "run",
]

# A plugin needs none of them, and they bring numpy and more.
_LATER = {"Run": "runs", "build": "api", "compare": "api", "load": "runs", "resume": "api", "run": "api"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'attnbench' has no attribute {name!r}")
    return getattr(import_module(f"attnbench.{_LATER[name]}"), name)
