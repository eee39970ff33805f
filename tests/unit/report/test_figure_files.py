import xml.etree.ElementTree as ET

from attnbench.analysis.summary import summarised
from attnbench.report.files import TABLES, write_figures
from attnbench.report.heads import by_heads
from attnbench.report.lengths import by_length
from attnbench.report.matplotlib import FORMATS, rendered
from helpers.reported import report
from unit.report.planted import job as planted_job
from unit.report.planted import memories, timing, timings
from unit.report.scenarios import HOSTILE, SCENARIOS

LENGTHS = (512, 1024)
_STARTS = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}


def figure(records):
    return next(by_length(report(records))).figures[0]


def texts(svg):
    return ["".join(each.itertext()) for each in ET.fromstring(svg).iter() if each.tag.endswith("}text")]


def test_a_figure_is_drawn_in_every_format():
    drawn = rendered(figure([*timings("vanilla", LENGTHS), *timings("flash", LENGTHS)]), FORMATS, several=True)
    assert {name: data[:4] for name, data in drawn.items()} == {name: start[:4] for name, start in _STARTS.items()}


def test_a_figure_drawn_twice_has_the_same_bytes():
    one, other = (rendered(figure(timings("flash", LENGTHS)), ["svg", "pdf"]) for _ in range(2))
    assert one == other


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
