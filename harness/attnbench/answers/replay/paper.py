"""A published table as data, which a suite's package brings so that its values can stand beside a run's.

A TOML file names the table (a CSV beside it), its conditions, what to run, and the variant for each mechanism.
"""

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from attnbench.contracts.case import Option, Passes
from attnbench.contracts.errors import UsageError, suggestion
from attnbench.contracts.toml import read_file


class Quantity(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A published quantity: where its values stand in the table, and which metric it is here.

    The values are in column `value` of the lines in which `where` holds, times `scale` in base units. `seq` is the
    column with their length; `task` is their task with its distinguishing options. `conditions` are those of the paper,
    by the names that options and columns have here.
    """

    metric: str
    value: str
    scale: float = 1.0
    where: dict[str, str] = {}
    passes: Passes = ""
    seq: str = ""
    task: str = ""
    conditions: dict[str, Option] = {}
    note: str = ""


class Mechanism(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The variant for a published mechanism, as `--variants` takes it, or the reason why there is none.

    `source` is the place in the paper or in its code that the options come from, `note` how the variant differs.
    """

    variant: str = ""
    reason: str = ""
    source: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if bool(self.variant) == bool(self.reason):
            raise ValueError("a mechanism has a variant, or the reason why there is none")


class Paper(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A paper's table: its source, its conditions, and the suite to run to repeat it.

    `mechanism` is the table's column of names; `baseline` is the mechanism that ratios are relative to at each length.
    """

    title: str
    source: str
    note: str = ""
    suite: str
    table: str
    mechanism: str
    baseline: str = ""
    conditions: dict[str, Option] = {}
    figures: tuple[Quantity, ...]
    mechanisms: dict[str, Mechanism]

    def __post_init__(self) -> None:
        if self.baseline and self.baseline not in self.mechanisms:
            hint = suggestion(self.baseline, self.mechanisms)
            raise ValueError(f"baseline {self.baseline!r} is no mechanism; {hint}")


class Published(Struct, frozen=True, kw_only=True):
    """A published value in base units; null with the paper's own words, or without any where it did not run."""

    mechanism: str
    quantity: Quantity
    seq: int | None = None
    value: float | None = None
    words: str = ""


def read_paper(path: Path) -> tuple[Paper, tuple[Published, ...]]:
    """Read a paper's file and the table beside it. Raises UsageError that names the file and the mistake."""
    paper = read_file(path, Paper, flag="replay")
    table = path.parent / paper.table
    try:
        lines = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))))
        return paper, tuple(_published(paper, lines))
    except OSError as error:
        raise UsageError(f"replay: {str(table)!r} cannot be read: {error.strerror}") from error
    except (KeyError, ValueError) as error:
        raise UsageError(f"replay: {str(table)!r}: {error.args[0]}") from error


def _published(paper: Paper, lines: list[dict[str, str]]) -> Iterator[Published]:
    """Yield the table's values by quantity, in the order of its lines. Raises KeyError for a missing column."""
    for quantity in paper.figures:
        for line in lines:
            if all(_cell(line, column) == wanted for column, wanted in quantity.where.items()):
                text = _cell(line, quantity.value)
                number = _number(text)
                yield Published(
                    mechanism=_cell(line, paper.mechanism),
                    quantity=quantity,
                    seq=int(_cell(line, quantity.seq)) if quantity.seq else None,
                    value=None if number is None else number * quantity.scale,
                    words="" if number is not None else text,
                )


def _cell(line: Mapping[str, str], column: str) -> str:
    if column not in line:
        raise KeyError(f"it has no column {column!r}; {suggestion(column, line)}")
    return line[column]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
