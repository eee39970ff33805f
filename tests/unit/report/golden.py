"""Comparison with text that was once looked at and found good, under tests/golden/tables.

To accept what is written now: `ATTNBENCH_GOLDEN=write pytest tests/unit/report`, then read the diff.
"""

import os
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "golden" / "tables"


def check(name: str, text: str) -> None:
    """Compare text with its golden file, byte for byte; write the file instead where the environment asks for it."""
    path = FOLDER / f"{name}.txt"
    if os.environ.get("ATTNBENCH_GOLDEN") == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    assert text == path.read_bytes().decode()
