"""Fill in what the documents take from the code and from the reference run, between their markers.

`make readme` writes README.md and docs/results-format.md, once the figures of the reference runs are made anew; a test
holds the documents to what would be written. Of several reference runs README.md shows the newest.
"""

import io
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct
from rich.console import Console

from attnbench import Run
from attnbench.analysis.rows import Row
from attnbench.contracts.record import SCHEMA, Record
from attnbench.contracts.units import amount, duration
from attnbench.report import reference
from attnbench.report.summary import blocks
from attnbench.report.terminal import Tables
from attnbench.store.lines import SCHEMAS, EnvironmentSeen, Plan, RatesSeen

ROOT = Path(__file__).parents[1]
FIGURE = "figures/latency-forward.svg"
_WIDTH, _COLUMNS = 80, 120  # of a terminal, and of a document
_PART = re.compile(r"(<!-- made by docs/make\.py: (\S+) -->)(\n?).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """Give a document with each marked part made anew."""
    return _PART.sub(lambda found: f"{found[1]}{found[3]}{PARTS[found[2]]()}{found[4]}", text)


def columns() -> str:
    """Write the table of columns."""
    return reference.markdown(Row)


def schema() -> str:
    """Write the version of the format."""
    later = [f", of a {kind} {schema}" for kind, schema in SCHEMAS.items() if schema != SCHEMA]
    return f"The schema is now {SCHEMA}{''.join(later)}.\n"


def events() -> str:
    """Write the table of events, each with its fields."""
    kinds: tuple[type[Struct], ...] = (Plan, EnvironmentSeen, RatesSeen, Record)
    lines = ["| event | what | fields |", "|---|---|---|"]
    for kind in kinds:
        fields = ", ".join(f"`{field.name}`" for field in msgspec.structs.fields(kind))
        what = (kind.__doc__ or "").split("\n", 1)[0]
        lines.append(f"| `{kind.__struct_config__.tag}` | {what} | {fields} |")
    return "\n".join(lines) + "\n"


def newest() -> Run:
    """Give the newest of the reference runs, which are results/MACHINE/RUN."""
    return Run(max((plan.parent for plan in ROOT.glob("results/*/*/plan.json")), key=lambda path: path.name))


def reference_run() -> str:
    """Write what the reference run was and gave, as a terminal of 80 columns has it, and show its latency."""
    run = newest()
    told, place = run.reproduction(), run.path.relative_to(ROOT).as_posix()
    machine = told["environments"][0]
    page = io.StringIO()
    Console(file=page, width=_WIDTH).print(Tables(blocks(run.rows())))
    table = "\n".join(f"    {line}".rstrip() for line in page.getvalue().splitlines())
    words = (
        f"`{told['command']}` took {duration(run.spent().total_s)} on {machine['threads']} threads of a machine with "
        f"{machine['device_name']} ({machine['cores']} cores, {amount(machine['memory_bytes'], 'bytes')}, torch "
        f"{machine['torch']}). Every sample of it is in `{place}`. It gave:"
    )
    picture = f"![Latency over sequence length, forward]({place}/{FIGURE})"
    return f"{textwrap.fill(words, _COLUMNS, break_on_hyphens=False)}\n\n{table}\n\n{picture}\n"


PARTS: dict[str, Callable[[], str]] = {
    "columns": columns,
    "schema": schema,
    "events": events,
    "reference-run": reference_run,
}
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "results-format.md")

if __name__ == "__main__":
    for document in DOCUMENTS:
        document.write_text(filled(document.read_text()))
