"""Fill in what the documents take from the code and from the reference run, between their markers.

`make readme` writes README.md and docs/results-format.md; a test holds both to what would be written.
"""

import re
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from attnbench.insight.rows import Row
from attnbench.record import SCHEMA, Record
from attnbench.report import reference
from attnbench.store.lines import EnvironmentSeen, Plan, RatesSeen

ROOT = Path(__file__).parents[1]
_PART = re.compile(r"(<!-- made by docs/make\.py: (\S+) -->)(\n?).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """Give a document with each marked part made anew."""
    return _PART.sub(lambda found: f"{found[1]}{found[3]}{PARTS[found[2]]()}{found[4]}", text)


def columns() -> str:
    """Write the table of columns."""
    return reference.markdown(Row)


def schema() -> str:
    """Write the version of the format."""
    return f"The schema is now {SCHEMA}.\n"


def events() -> str:
    """Write the table of events, each with its fields."""
    kinds: tuple[type[Struct], ...] = (Plan, EnvironmentSeen, RatesSeen, Record)
    lines = ["| event | what | fields |", "|---|---|---|"]
    for kind in kinds:
        fields = ", ".join(f"`{field.name}`" for field in msgspec.structs.fields(kind))
        what = (kind.__doc__ or "").split("\n", 1)[0]
        lines.append(f"| `{kind.__struct_config__.tag}` | {what} | {fields} |")
    return "\n".join(lines) + "\n"


PARTS: dict[str, Callable[[], str]] = {"columns": columns, "schema": schema, "events": events}
DOCUMENTS = (ROOT / "docs" / "results-format.md",)

if __name__ == "__main__":
    for document in DOCUMENTS:
        document.write_text(filled(document.read_text()))
