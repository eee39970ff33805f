"""attnbench: what each attention mechanism costs at your lengths, heads, hardware and task, and what it gives up."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnbench.api import build, compare
    from attnbench.contracts.case import Case, Mask, Shape
    from attnbench.contracts.errors import UsageError
    from attnbench.contracts.task import IGNORE, Form
    from attnbench.contracts.tunes import Tune
    from attnbench.contracts.variant import Attention, InvalidOutput, Options, Projections, Support, Unsupported
    from attnbench.interactive import resume, run
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

# Imported when they are asked for: the command line listens to Ctrl-C first, and a plugin needs only a few of them.
_MODULES = {
    "api": ("build", "compare"),
    "contracts.case": ("Case", "Mask", "Shape"),
    "contracts.errors": ("UsageError",),
    "contracts.task": ("IGNORE", "Form"),
    "contracts.tunes": ("Tune",),
    "contracts.variant": ("Attention", "InvalidOutput", "Options", "Projections", "Support", "Unsupported"),
    "interactive": ("resume", "run"),
    "runs": ("Run", "load"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'attnbench' has no attribute {name!r}")
    return getattr(import_module(f"attnbench.{_MODULE_OF[name]}"), name)
