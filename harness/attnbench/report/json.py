"""Rows as JSON: what `--json` prints, one array of one object per row."""

from collections.abc import Sequence

import msgspec
from msgspec import Struct


def to_json(rows: Sequence[Struct]) -> str:
    """Write rows (or comparisons) as one JSON array, a row a line."""
    lines = ",\n".join(msgspec.json.encode(row).decode() for row in rows)
    return f"[\n{lines}\n]\n" if lines else "[]\n"
