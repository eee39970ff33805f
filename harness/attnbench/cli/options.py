"""The options that commands share beside the flags of a request."""

from pathlib import Path
from typing import Annotated, Any

import typer

NEEDS, WHERE = "What must hold", "Where"

# The flags of a request for one workload, beside its length.
SHAPE = ("heads", "kv_heads", "head_dim", "width", "batch")
WORKLOAD = (*SHAPE, "dtype", "causal", "window", "passes", "level", "inputs")
MACHINE = ("device", "threads", "profile")


def option(text: str, metavar: str, *, panel: str) -> Any:
    """Return an option of Typer that is named after its parameter and shows no default."""
    return typer.Option(help=text, rich_help_panel=panel, metavar=metavar, show_default=False)


def switch(name: str, text: str, *, panel: str) -> Any:
    """Return an option of Typer that takes no value."""
    return typer.Option(name, help=text, rich_help_panel=panel, metavar="", show_default=False)


Out = Annotated[Path, typer.Option("--out", help="Folder that holds the runs.", metavar="DIR")]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on standard output, and nothing else there.", metavar="")
]
Details = Annotated[
    bool, typer.Option("--details", help="Show what each supports, its options, and what is missing.", metavar="")
]
RunName = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run's id, the beginning of one, its path, or `latest`.", show_default=False),
]
