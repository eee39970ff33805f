"""Lists of things as plain text: columns where there are many, paragraphs where each has much to say."""

import shutil
import textwrap
from collections.abc import Sequence
from typing import Any

from attnbench.contracts.text import plain

_GAP = "  "


def listing(items: Sequence[dict[str, Any]], *, nothing: str) -> str:
    """Write items as columns under their fields' names, or say that there are none."""
    if not items:
        return nothing
    fields = list(dict.fromkeys(field for item in items for field in item))
    lines = [fields, *([_line(item.get(field, "")) for field in fields] for item in items)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(fields))]
    return "\n".join(
        _GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def paragraph(item: dict[str, Any]) -> str:
    """Write one item with all that it has to say, wrapped to the terminal's width."""
    (title, *rest) = item.items()
    lines = [_line(title[1])]
    told = [(f"{field.replace('_', ' ')}:", value) for field, value in rest if value not in ("", None, [], {})]
    room = max((len(label) for label, _ in told), default=0)
    for label, value in told:
        values = value if isinstance(value, list) else [value]
        for number, one in enumerate(value for value in values if value not in ("", None)):
            lines.append(_wrapped((label if number == 0 else "").ljust(room), one))
    return "\n".join(lines)


def _wrapped(label: str, value: object) -> str:
    margin = " " * 4
    width = max(40, shutil.get_terminal_size().columns)
    first = f"  {label} "
    return textwrap.fill(_line(value), width=width, initial_indent=first, subsequent_indent=" " * len(first) + margin)


def _line(value: object) -> str:
    """Write a value on one line, with nothing that a terminal would obey."""
    if isinstance(value, dict):
        return plain(", ".join(f"{k}={v}" for k, v in value.items()))
    return plain(", ".join(map(str, value)) if isinstance(value, tuple) else str(value))
