"""Comparison with files under tests/golden that were once looked at and found good.

To accept what is written now: `ATTNBENCH_GOLDEN=write pytest tests/unit/report`, then read the diff.
"""

import csv
import gzip
import json
import math
import os
from collections.abc import Iterator, Sequence
from difflib import unified_diff
from itertools import zip_longest
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "golden"
CLOSE = 1e-9  # relative; another processor or version of numpy may round the last digits otherwise
_SHOWN = 20

Row = dict[str, object]


def check(name: str, text: str) -> None:
    """Compare text with its golden table, byte for byte."""
    check_text(f"tables/{name}.txt", text)


def check_text(name: str, text: str) -> None:
    """Compare text with a golden file, byte for byte; a failure lists the lines that differ."""
    accepted = _accepted(name, text)
    found = unified_diff(accepted.splitlines(), text.splitlines(), "accepted", "now", lineterm="", n=0)
    assert text == accepted, _report(name, list(found) or ["the ends of lines differ"])


def check_csv(name: str, text: str) -> None:
    """Compare rows in CSV with a golden file; a failure lists the rows and columns that differ."""
    accepted, now = (list(csv.DictReader(each.splitlines())) for each in (_accepted(name, text), text))
    _check_rows(name, accepted, now)


def check_json(name: str, text: str) -> None:
    """Compare rows in JSON with a golden file; a failure lists the rows and columns that differ."""
    accepted, now = (json.loads(each) for each in (_accepted(name, text), text))
    _check_rows(name, accepted, now)


def _accepted(name: str, text: str) -> str:
    """Return a golden file's text; if the environment asks for it, write the file first."""
    path = FOLDER / name
    packed = path.suffix == ".gz"
    if os.environ.get("ATTNBENCH_GOLDEN") == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(text.encode(), mtime=0) if packed else text.encode())
    data = path.read_bytes()
    return (gzip.decompress(data) if packed else data).decode()


def _check_rows(name: str, accepted: Sequence[Row], now: Sequence[Row]) -> None:
    found = list(_differences(accepted, now))
    assert not found, _report(name, found)


def _differences(accepted: Sequence[Row], now: Sequence[Row]) -> Iterator[str]:
    headings = [list(next(iter(rows), {})) for rows in (accepted, now)]
    for number, (before, after) in enumerate(zip_longest(*headings), start=1):
        if before != after:
            yield f"column {number}: was {before} and is {after}"
    if len(accepted) != len(now):
        yield f"there were {len(accepted)} rows and are {len(now)}"
    for number, (before, after) in enumerate(zip_longest(accepted, now, fillvalue={}), start=1):
        for column in dict.fromkeys([*before, *after]):
            cells = before.get(column), after.get(column)
            if not same(*cells):
                yield f"row {number}, column {column}: was {cells[0]!r} and is {cells[1]!r}"


def same(before: object, after: object) -> bool:
    """Return whether two cells are equal, numbers (also within JSON text) to a relative 1e-9; types must agree."""
    match before, after:
        case str(), str():
            return before == after or _same_json(before, after)
        case float(), float():
            return math.isclose(before, after, rel_tol=CLOSE)
        case dict(), dict():
            return list(before) == list(after) and all(same(before[key], after[key]) for key in before)
        case list(), list():
            return len(before) == len(after) and all(map(same, before, after))
        case _:
            return type(before) is type(after) and before == after


def _same_json(before: str, after: str) -> bool:
    try:
        return same(json.loads(before), json.loads(after))
    except ValueError:
        return False


def _report(name: str, lines: Sequence[str]) -> str:
    more = [f"... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "\n".join([f"differs from tests/golden/{name}:", *lines[:_SHOWN], *more])
