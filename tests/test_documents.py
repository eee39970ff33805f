"""The documents say what the code and the reference run say, and their links and commands work."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import typer

from attnbench.cli.app import app
from attnbench.contracts.metrics import METRICS
from attnbench.contracts.suite import Sweep
from attnbench.planning.plan import check
from attnbench.planning.request import Request
from attnbench.report.csv import to_csv
from attnbench.report.html import figures
from attnbench.report.images import images
from attnbench.report.reported import Report
from attnbench.report.vega import chart
from attnbench.store import verify
from helpers.documents import ROOT, code, command_lines, headings

DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("results/*.md"), *ROOT.glob("suites/**/*.md")]
FORMAT = ROOT / "docs" / "results-format.md"
COMMANDS = ROOT / "docs" / "commands.md"
COMMAND = typer.main.get_command(app)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def maker() -> ModuleType:
    """Import docs/make.py, which belongs to no package."""
    spec = importlib.util.spec_from_file_location("make", ROOT / "docs" / "make.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKER = maker()


@pytest.mark.parametrize("document", MAKER.DOCUMENTS, ids=name_of)
def test_generated_parts_are_as_make_readme_would_write_them(document: Path) -> None:
    assert document.read_text() == MAKER.filled(document.read_text()), "run make readme"


def test_every_generated_part_is_in_a_document() -> None:
    text = "".join(document.read_text() for document in MAKER.DOCUMENTS)
    assert set(re.findall(r"<!-- made by docs/make\.py: (\S+) -->", text)) == set(MAKER.PARTS)


def test_the_figure_of_the_readme_is_drawn_from_the_run_that_it_shows() -> None:
    run = MAKER.newest()
    stored = run.path / MAKER.FIGURE
    (figure,) = [each for each in figures(Report([run.reported()])) if each.name == stored.stem]
    drawn = images(chart(figure), ["svg"])["svg"]
    assert stored.read_bytes() == drawn, "run make readme"


@pytest.mark.parametrize("run", [*ROOT.glob("results/*/*/plan.json")], ids=lambda plan: plan.parent.name)
def test_a_reference_run_is_whole_complete_and_light(run: Path) -> None:
    report = verify(run.parent)
    assert report.sound
    assert report.pending == 0
    published = [run, run.with_name("events.jsonl"), *run.parent.glob("figures/*")]
    assert sum(file.stat().st_size for file in published) < 1.5e6


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", document.read_text()):
        path, _, anchor = target.partition("#")
        linked = document.parent / path if path else document
        assert linked.exists(), target
        assert not anchor or anchor in headings(linked), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_file_and_folder_that_a_document_names_exists(document: Path) -> None:
    named = re.findall(r"`((?:[a-z_]+/)+(?:[a-z_]+\.(?:py|toml|md))?)`", document.read_text())
    roots = (ROOT, ROOT / "harness" / "attnbench", ROOT / "variants" / "attnbench_variants")
    missing = {path for path in named if not any((root / path).exists() for root in roots)}
    assert missing <= {"checkpoints/"}  # a run's own folder


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_command_of_a_document_has_only_flags_and_values_that_exist(document: Path) -> None:
    for words in command_lines(document):
        with COMMAND.make_context("attnbench", list(words)) as context:
            assert isinstance(COMMAND, typer.core.TyperGroup)
            name, command, rest = COMMAND.resolve_command(context, list(words))
            assert command is not None
            asked = command.make_context(name, rest, parent=context).params
        if name == "run" and not asked["resume"] and "./" not in " ".join(words) and asked["suite"] != "mine.toml":
            given = {field: asked[field] for field in Sweep.__struct_fields__ if asked.get(field) is not None}
            check(Request(threads=1, suite=asked["suite"] or "standard", sweep=Sweep(**given)))


def test_every_command_has_a_section_with_an_example() -> None:
    sections = re.split(r"^## ", COMMANDS.read_text(), flags=re.MULTILINE)
    by_name = {section.partition("\n")[0]: section for section in sections}
    with COMMAND.make_context("attnbench", ["doctor"]) as context:
        assert isinstance(COMMAND, typer.core.TyperGroup)
        names = COMMAND.list_commands(context)
    assert [name for name in names if f"    attnbench {name}" not in by_name.get(name, "")] == []


def test_the_suite_of_the_documents_can_be_planned(tmp_path: Path) -> None:
    (suite,) = [block for block in code(COMMANDS, "toml") if "[[sweep.shapes]]" in block]
    (tmp_path / "mine.toml").write_text(suite)
    check(Request(threads=1, suite=str(tmp_path / "mine.toml"), sweep=Sweep(shapes="large")))


def test_every_column_of_rows_is_documented_in_its_place_with_a_meaning() -> None:
    table = FORMAT.read_text().partition("<!-- made by docs/make.py: columns -->")[2].partition("<!-- end -->")[0]
    documented = re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", table, re.MULTILINE)
    exported = to_csv(MAKER.newest().rows()[:1]).partition("\n")[0].strip().split(",")
    assert [name for name, _ in documented] == exported
    assert [name for name, meaning in documented if not meaning] == []


def test_every_metric_that_the_code_names_is_explained() -> None:
    explained = set(re.findall(r"`([a-z0-9_]+)`", FORMAT.read_text()))
    sources = "".join(path.read_text() for path in (ROOT / "harness").rglob("*.py"))
    named = set(re.findall(r"""(?:\bfigure\(|\bmetric=)"([a-z_]+)\"""", sources))
    assert ({*METRICS} | named) - explained - {"validation_curve"} == set()
