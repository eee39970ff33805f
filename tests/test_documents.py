"""What documents tell of the code, and of the reference run, is as the code and the run have it."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from attnbench.analysis.rows import Row
from attnbench.report.html import figures
from attnbench.report.images import images
from attnbench.report.reference import Column, reference
from attnbench.report.reported import Report
from attnbench.report.vega import chart
from attnbench.store import verify

ROOT = Path(__file__).parents[1]
FORMAT = ROOT / "docs" / "results-format.md"


def maker() -> ModuleType:
    """Import docs/make.py, which is no package's."""
    spec = importlib.util.spec_from_file_location("make", ROOT / "docs" / "make.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKER = maker()


@pytest.mark.parametrize("document", MAKER.DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_takes_from_elsewhere_is_as_make_readme_would_write_it(document: Path) -> None:
    assert document.read_text() == MAKER.filled(document.read_text()), "run make readme"


def test_the_figure_of_the_readme_is_drawn_from_the_run_that_it_shows() -> None:
    run = MAKER.newest()
    stored = run.path / MAKER.FIGURE
    (figure,) = [each for each in figures(Report([run.reported()])) if each.name == stored.stem]
    drawn = images(chart(figure), ["svg"])["svg"]
    assert stored.read_bytes() == drawn, "run make readme"


@pytest.mark.parametrize("run", [*MAKER.ROOT.glob("results/*/*/plan.json")], ids=lambda plan: plan.parent.name)
def test_a_reference_run_is_whole_complete_and_light(run: Path) -> None:
    report = verify(run.parent)
    assert report.sound
    assert report.pending == 0
    published = [run, run.with_name("events.jsonl"), *run.parent.glob("figures/*")]
    assert sum(file.stat().st_size for file in published) < 1.5e6


def test_every_column_of_rows_is_documented_in_its_place_with_a_meaning() -> None:
    found = list(reference(Row))
    assert [each.name for each in found] == list(Row.__struct_fields__)
    assert [each.name for each in found if not each.meaning] == []
    assert found[-1] == Column(
        name="allocator",
        json="string",
        dtype="string",
        unit="",
        values=(),
        meaning="C heap: default, or retained (never given back)",
    )


def test_every_metric_that_the_code_names_is_explained() -> None:
    told = set(re.findall(r"`([a-z_]+)`", FORMAT.read_text()))
    sources = "".join(path.read_text() for path in (ROOT / "harness").rglob("*.py"))
    named = set(re.findall(r"""(?:\bfigure\(|\bmetric=|_per_time\(row, )"([a-z_]+)\"""", sources))
    assert len(named) > 10
    assert named - told - {"validation_curve"} == set()
