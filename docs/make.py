"""Fill in the parts of the documents that come from the code and from the reference run.

`make readme` rewrites what stands between `<!-- made by docs/make.py: NAME -->` and `<!-- end -->`, after redrawing the
figures of the reference runs. A test fails if a document differs from what would be written. If there are several
reference runs, the newest is shown.
"""

import io
import re
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from rich.console import Console

from attnbench import Case, Mask, Run, Shape
from attnbench.analysis.rows import Row
from attnbench.answers.replay.paper import Mechanism
from attnbench.answers.replay.replays import find_paper
from attnbench.contracts.reach import reach_of
from attnbench.contracts.record import SCHEMA, Record
from attnbench.contracts.task import Training
from attnbench.contracts.units import amount, duration
from attnbench.contracts.variant import complete_options, support_of
from attnbench.planning.suites import find_suite
from attnbench.plugins.describe import option_fields
from attnbench.report import reference
from attnbench.report.summary import blocks, summaries
from attnbench.report.table import Block, tables
from attnbench.report.terminal import Ending, Tables
from attnbench.store.lines import SCHEMAS, EnvironmentSeen, Plan, RatesSeen

ROOT = Path(__file__).parents[1]
FIGURE = "figures/latency-forward.svg"
_LONG = Shape(batch=1, heads=8, kv_heads=8, seq_q=4096, seq_k=4096, head_dim=64)
_WIDTH, _COLUMNS = 80, 120  # of a terminal, and of a document
_PART = re.compile(r"(<!-- made by docs/make\.py: (\S+) -->)(\n?).*?(<!-- end -->)", re.DOTALL)
_FAMILIES = {
    "exact": "exact",
    "low_rank": "low rank",
    "hashing": "hashing",
    "routing": "content routing",
    "fixed_sparse": "fixed sparse",
    "linear": "linear",
    "hierarchical": "hierarchical",
    "position": "relative position",
    "head_mixing": "mixed heads",
    "attention_free": "no attention",
}


def filled(text: str) -> str:
    """Return a document with each marked part made anew."""
    return _PART.sub(lambda part: f"{part[1]}{part[3]}{PARTS[part[2]]()}{part[4]}", text)


def columns() -> str:
    """Render the columns of rows."""
    return reference.markdown(Row)


def schema() -> str:
    """Render the version of the format."""
    exceptions = "".join(f"; that of a {kind} is {version}" for kind, version in SCHEMAS.items() if version != SCHEMA)
    return f"The current schema is {SCHEMA}{exceptions}.\n"


def events() -> str:
    """Render the events of a run, each with its fields."""
    kinds: tuple[type[Struct], ...] = (Plan, EnvironmentSeen, RatesSeen, Record)
    lines = []
    for kind in kinds:
        fields = ", ".join(f"`{field.name}`" for field in msgspec.structs.fields(kind))
        lines.append((f"`{kind.__struct_config__.tag}`", _summary(kind), fields))
    return _table(("event", "content", "fields"), lines)


def mechanisms() -> str:
    """Render the installed mechanisms by family, with their count."""
    families = defaultdict(list)
    for point in _points("variants"):
        families[point.value.split(".")[1]].append(point)
    own = {name: families[name] for name in _FAMILIES}  # leaves out `empty`, the harness's own
    lines = [
        (_FAMILIES[name] if place == 0 else "", f"`{point.name}`", *_mechanism(point.load()))
        for name, points in own.items()
        for place, point in enumerate(points)
    ]
    count = sum(map(len, own.values()))
    return f"There are {count}:\n\n{_table(('family', 'name', 'mechanism', 'time', 'keys seen'), lines)}"


def tasks() -> str:
    """Render the installed tasks."""
    lines = [(f"`{point.name}`", _summary(point.load())) for point in _points("tasks")]
    return _table(("task", "what the model must do"), lines)


def training() -> str:
    """Render the options that every task has beside its own."""
    lines = [(f"`{field.name}`", _typed(field.default), field.meaning) for field in option_fields(Training)]
    return _table(("option", "default", "meaning"), lines)


def suites() -> str:
    """Render the installed suites."""
    lines = [(f"`{point.name}`", find_suite(point.name).description) for point in _points("suites")]
    return _table(("suite", "sweep"), lines)


def papers() -> str:
    """Render the papers that can be replayed."""
    lines = [(f"`{point.name}`", find_paper(point.name).paper.source) for point in _points("papers")]
    return _table(("paper", "published table"), lines)


def replays() -> str:
    """Render what each paper's mechanisms are there and here, with the source and every difference; then its tasks'."""
    return "\n".join(_replay(point.name) for point in _points("papers"))


def _replay(name: str) -> str:
    paper = find_paper(name).paper
    lines = [
        (mechanism, one.published, _variants(one), one.note or one.reason or "none known", one.source)
        for mechanism, one in paper.mechanisms.items()
    ]
    table = _table(("mechanism", "published", "here", "differences", "source"), lines)
    notes = [f"- {figure.task or figure.metric}: {figure.note}" for figure in paper.figures if figure.note]
    intro = textwrap.fill(f"{paper.title}: {paper.source}.", _COLUMNS, break_on_hyphens=False, break_long_words=False)
    whole = textwrap.fill(f"There: {paper.note}.", _COLUMNS, break_on_hyphens=False, break_long_words=False)
    parts = [f"## {name}", intro, whole, table.rstrip(), "\n".join(map(_item, notes))]
    return "\n\n".join(filter(None, parts)) + "\n"


def _item(text: str) -> str:
    return textwrap.fill(text, _COLUMNS, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)


def _variants(of: Mechanism) -> str:
    """Write the variant of a mechanism, and those for single tasks."""
    if not of.variant:
        return "none"
    others = (f"{task}: `{variant}`" for task, variant in of.by_task.items())
    return "; ".join((f"`{of.variant}`", *others))


def newest() -> Run:
    """Return the newest of the reference runs, which are results/MACHINE/RUN."""
    return Run(max((plan.parent for plan in ROOT.glob("results/*/*/plan.json")), key=lambda path: path.name))


def example() -> str:
    """Render the latency and the trade-off of the reference run, without the notes below them."""
    run = newest()
    rows = run.rows()
    bare = [
        msgspec.structs.replace(block, growth=(), crossings=(), notes=(), floor="")
        for block in (*tables(rows, ("latency",)), *summaries(rows))
    ]
    picture = f"![Latency over sequence length, forward]({run.path.relative_to(ROOT).as_posix()}/{FIGURE})"
    return f"{_described(run)}\n\n{_printed(bare, rows)}\n\n{picture}\n"


def reference_run() -> str:
    """Render the tables of the reference run as a terminal of 80 columns shows them."""
    run = newest()
    rows = run.rows()
    return f"{_described(run)}\n\n{_printed(blocks(rows), rows)}\n"


def _described(run: Run) -> str:
    facts, path = run.reproduction(), run.path.relative_to(ROOT).as_posix()
    machine = facts["environments"][0]
    words = (
        f"`{facts['command']}` took {duration(run.spent().total_s)} with {machine['threads']} threads on an "
        f"{machine['device_name']} ({machine['cores']} cores, {amount(machine['memory_bytes'], 'bytes')}, torch "
        f"{machine['torch']}). Every sample of it is in `{path}`."
    )
    return textwrap.fill(words, _COLUMNS, break_on_hyphens=False)


def _printed(blocks: Sequence[Block], rows: Sequence[Row]) -> str:
    page = io.StringIO()
    Console(file=page, width=_WIDTH).print(Tables(blocks), Ending(rows))
    return "\n".join(f"    {line}".rstrip() for line in page.getvalue().splitlines())


def _mechanism(variant: Any) -> tuple[str, str, str]:
    growth = support_of(variant).growth
    return _summary(variant), "" if growth is None else "N" if growth == 1 else f"N^{growth:g}", _reach(variant)


def _reach(variant: Any) -> str:
    """Render the share of 4096 keys that a query sees with default options, causally if there is no other form."""
    options = msgspec.structs.asdict(complete_options(variant, {}))
    causal = support_of(variant).full is not True
    share = reach_of(variant, Case(variant="", options=options, shape=_LONG, mask=Mask(causal=causal)))
    return "" if share is None else "all" if share == 1 else f"{share:.1%}"


def _points(group: str) -> list[EntryPoint]:
    return sorted(entry_points(group=f"attnbench.{group}"), key=lambda point: point.name)


def _typed(value: object) -> str:
    """Write a value as it is typed on the command line."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _summary(thing: Any) -> str:
    return (thing.__doc__ or "").split("\n", 1)[0]


def _table(heading: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Render a table in Markdown; a bar within a cell is escaped."""
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in (heading, ["---"] * len(heading), *cells))


PARTS: dict[str, Callable[[], str]] = {
    "columns": columns,
    "schema": schema,
    "events": events,
    "mechanisms": mechanisms,
    "tasks": tasks,
    "training": training,
    "suites": suites,
    "papers": papers,
    "replays": replays,
    "example": example,
    "reference-run": reference_run,
}
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

if __name__ == "__main__":
    for document in DOCUMENTS:
        document.write_text(filled(document.read_text()))
