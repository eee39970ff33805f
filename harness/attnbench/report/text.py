"""Plain text: lists in columns, items in paragraphs, and the words in which notes are joined."""

import shutil
import textwrap
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

from attnbench.analysis.groups import group_by
from attnbench.contracts.text import plain

_GAP = "  "


def listing(items: Sequence[dict[str, Any]], *, nothing: str) -> str:
    """Render items as columns under their fields' names; `nothing` stands for none."""
    if not items:
        return nothing
    fields = list(dict.fromkeys(field for item in items for field in item))
    lines = [fields, *([_value(item.get(field, "")) for field in fields] for item in items)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(fields))]
    return "\n".join(
        _GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def paragraph(item: dict[str, Any]) -> str:
    """Render one item with all of its fields, wrapped to the terminal's width; the first field is its title."""
    (title, *rest) = item.items()
    lines = [_value(title[1])]
    fields = [(f"{field.replace('_', ' ')}:", value) for field, value in rest if value not in ("", None, [], {})]
    widest = max((len(label) for label, _ in fields), default=0)
    for label, value in fields:
        values = value if isinstance(value, list) else [value]
        for number, one in enumerate(value for value in values if value not in ("", None)):
            lines.append(_wrapped((label if number == 0 else "").ljust(widest), one))
    return "\n".join(lines)


def one_line(text: str) -> str:
    """Return text on one line, with nothing that a terminal would obey."""
    return plain(" ".join(text.split()))


def few(parts: Sequence[str], most: int, *, separator: str = ", ") -> str:
    """Join the first parts, and count those left out."""
    more = f" and {len(parts) - most} more" if len(parts) > most else ""
    return f"{separator.join(parts[:most])}{more}"


def enumerated(names: Iterable[str]) -> str:
    """Return names in a row: a, b and c."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the distinct values of each key, in their order."""
    groups = group_by(dict.fromkeys(pairs), itemgetter(0))
    return {key: [value for _, value in distinct] for key, distinct in groups.items()}


def _wrapped(label: str, value: object) -> str:
    margin = " " * 4
    width = max(40, shutil.get_terminal_size().columns)
    first = f"  {label} "
    return textwrap.fill(_value(value), width=width, initial_indent=first, subsequent_indent=" " * len(first) + margin)


def _value(value: object) -> str:
    if isinstance(value, dict):
        return plain(", ".join(f"{name}={one}" for name, one in value.items()))
    return plain(", ".join(map(str, value)) if isinstance(value, tuple) else str(value))
