"""The flags that several commands share, with their meanings."""

from pathlib import Path
from typing import Annotated

import typer

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
