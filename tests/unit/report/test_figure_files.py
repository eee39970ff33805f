import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from msgspec.structs import replace

from attnbench.analysis.summary import summarised
from attnbench.report.figure import Axis, Figure, Point, Series
from attnbench.report.files import TABLES, write_figures
from attnbench.report.heads import by_heads
from attnbench.report.images import FORMATS, images
from attnbench.report.lengths import by_length
from attnbench.report.vega import chart
from helpers.reported import report
from unit.report.planted import job as planted_job
from unit.report.planted import memories, timing, timings
from unit.report.scenarios import HOSTILE, SCENARIOS

LENGTHS = (512, 1024)
_STARTS = {"svg": b"<svg", "png": b"\x89PNG", "pdf": b"%PDF"}


def figure(records):
    return next(by_length(report(records))).figures[0]


def rendered(figure, formats, *, several=False):
    return images(chart(figure, several=several), formats)


def texts(svg):
    return [each.text for each in elements(svg)]


def elements(svg):
    return [each for each in ET.fromstring(svg).iter() if each.tag.endswith("}text")]


def test_a_figure_is_drawn_in_every_format():
    drawn = rendered(figure([*timings("vanilla", LENGTHS), *timings("flash", LENGTHS)]), FORMATS, several=True)
    assert {name: data[:4] for name, data in drawn.items()} == {name: start[:4] for name, start in _STARTS.items()}


def test_a_figure_drawn_twice_has_the_same_bytes():
    one, other = (rendered(figure(timings("flash", LENGTHS)), FORMATS) for _ in range(2))
    assert one == other


def test_a_process_draws_what_another_drew():
    drawn = chart(figure(timings("flash", LENGTHS)))
    code = (
        "import json, sys; from attnbench.report.images import images; f = images(json.load(sys.stdin), ['svg', 'pdf'])"
    )
    words = [sys.executable, "-c", f"{code}; sys.stdout.buffer.write(f['svg'] + f['pdf'])"]
    other = subprocess.run(words, input=json.dumps(drawn).encode(), capture_output=True, check=True).stdout
    assert other == b"".join(images(drawn, ["svg", "pdf"]).values())


def test_a_picture_has_the_colours_of_a_light_page_and_its_pdf_has_its_fonts():
    drawn = rendered(figure(timings("flash", LENGTHS)), ["svg", "pdf"])
    assert b"light-dark" not in drawn["svg"]
    assert b"FontFile" in drawn["pdf"] or b"FontDescriptor" in drawn["pdf"]


@pytest.mark.parametrize("alike", [True, False])
def test_no_two_of_45_labels_at_the_ends_of_lines_overlap_and_none_is_lost(alike):
    names = [f"variant-{number}" for number in range(45)]
    lengths = {name: LENGTHS[: 2 - place % 2] for place, name in enumerate(names)}  # some end before the others
    records = [
        timing(planted_job(name, seq=seq), 1e-3 if alike else 1e-3 * (1 + place % 7))
        for place, name in enumerate(names)
        for seq in lengths[name]
    ]
    svg = rendered(figure(records), ["svg"])["svg"]
    spots = [_spot(each) for each in elements(svg) if each.text in names]
    assert len(spots) == 45
    assert len({x for x, _ in spots}) == 1
    heights = sorted(y for _, y in spots)
    assert min(after - before for before, after in pairwise(heights)) > 12  # the size of the letters
    assert 0 <= heights[0] < heights[-1] <= float(ET.fromstring(svg).get("height"))


def _spot(text):
    return tuple(map(float, re.findall(r"-?[\d.]+", text.get("transform"))))


def test_a_pareto_front_has_its_name():
    front = (Point(x=1, y=9), Point(x=8, y=1))
    axis = Axis(title="latency", log=True)
    several = (
        Series(name="Pareto front", variant=None, run=0, points=front),
        *(Series(name="a", variant=0, run=0, points=(replace(each, label="a"),), line=False) for each in front),
    )
    drawn = Figure(name="f", title="f", facets={}, x=axis, y=axis, series=several)
    assert "Pareto front" in texts(rendered(drawn, ["svg"])["svg"])


def test_hostile_names_stay_text_in_a_picture():
    names = [name for name in (*HOSTILE, "_hidden", "$x^2$") if name.isprintable()]
    records = [
        timing(planted_job(name, seq=seq), 1e-3 * place) for place, name in enumerate(names, 1) for seq in LENGTHS
    ]
    svg = rendered(figure(records), ["svg"])["svg"]
    shown = {text.strip() for text in texts(svg)}
    assert {name.strip() for name in names} <= shown
    assert b"<script" not in svg


def test_a_heatmap_shows_its_numbers_and_its_axes():
    found = report(SCENARIOS["heads"]()[0])
    (section,) = by_heads(found, [summarised(found.runs[0].rows).against])
    heat = section.figures[0]
    shown = texts(rendered(heat, ["svg"])["svg"])
    assert {cell.text for cell in heat.cells} <= set(shown)
    assert {*heat.columns, *heat.rows, heat.x, heat.y} <= set(shown)


def test_figures_and_tables_are_written_under_stable_names(tmp_path):
    found = report([*timings("flash", LENGTHS), *memories("flash", LENGTHS)])
    written = write_figures(found, tmp_path / "new" / "paper", ["svg"])
    assert sorted(path.name for path in written) == ["latency-forward.svg", "memory-forward.svg", TABLES]
    assert sorted(path.name for path in (tmp_path / "new" / "paper").iterdir()) == sorted(path.name for path in written)
    assert "\\toprule" in (tmp_path / "new" / "paper" / TABLES).read_text()
