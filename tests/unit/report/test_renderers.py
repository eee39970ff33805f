import io
import re

import pytest
from msgspec.structs import replace
from rich.cells import cell_len
from rich.console import Console

from attnbench.analysis.rows import rows
from attnbench.report.latex import latex
from attnbench.report.markdown import markdown
from attnbench.report.table import tables
from attnbench.report.terminal import Tables, live
from unit.report.golden import check
from unit.report.planted import job, record, value
from unit.report.scenarios import HOSTILE, SCENARIOS


def planted(name):
    return rows(*SCENARIOS[name]())


def printed(renderable, width=80, *, encoding="utf-8", height=25, colours=False):
    raw = io.BytesIO()
    target = io.TextIOWrapper(raw, encoding=encoding, newline="")
    console = Console(
        file=target,
        width=width,
        height=height,
        force_terminal=colours,
        color_system="truecolor" if colours else None,
    )
    console.print(renderable)
    target.flush()
    return raw.getvalue().decode(encoding)


def drawn(name, width=80, **console):
    return printed(Tables(tables(planted(name))), width, **console)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_terminal_of_80_columns_shows_the_golden_tables(name):
    check(f"{name}.80", drawn(name))


@pytest.mark.parametrize("name", ["complete", "options", "long", "statuses"])
def test_a_terminal_of_120_columns_shows_the_golden_tables(name):
    check(f"{name}.120", drawn(name, 120))


@pytest.mark.parametrize("name", ["complete", "hostile"])
def test_a_terminal_with_colours_shows_the_golden_tables(name):
    check(f"{name}.colours", drawn(name, colours=True))


@pytest.mark.parametrize("name", ["complete", "hostile"])
def test_a_terminal_without_unicode_shows_the_golden_tables(name):
    check(f"{name}.ascii", drawn(name, 120, encoding="ascii"))


@pytest.mark.parametrize("name", ["complete", "heads", "hostile"])
def test_markdown_equals_the_golden_file(name):
    check(f"{name}.md", markdown(tables(planted(name))))


@pytest.mark.parametrize("name", ["complete", "heads", "hostile"])
def test_latex_equals_the_golden_file(name):
    check(f"{name}.tex", latex(tables(planted(name))))


@pytest.mark.parametrize("width", [60, 72, 80, 100, 160])
@pytest.mark.parametrize("name", SCENARIOS)
def test_no_line_is_wider_than_the_terminal(name, width):
    assert max(cell_len(line) for line in drawn(name, width).splitlines()) <= width


@pytest.mark.parametrize("width", [20, 60, 80, 200])
@pytest.mark.parametrize("name", ["complete", "long", "masks"])
def test_every_number_is_shown_whatever_the_width(name, width):
    text = re.sub(r"\s", "", drawn(name, width))
    missing = [cell.text for block in tables(planted(name)) for cell in block.cells if cell.text not in text]
    assert missing == []


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        *((name, name) for name in HOSTILE if name.isprintable()),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\x00b", r"a\x00b"),
        ("a\nb", r"a\nb"),
        ("\u202eevil", r"\u202eevil"),
    ],
)
def test_a_hostile_name_is_text_in_a_terminal(name, shown):
    text = printed(Tables(tables(rows([record(job(name), value(1))]))), colours=True)
    assert any(line.startswith(f"{shown} ") for line in text.splitlines())


def test_a_hostile_name_adds_no_style_of_its_own():
    styles = set(re.findall(r"\x1b\[([0-9;]*)m", drawn("hostile", colours=True)))
    assert styles <= {"0", "1", "2", "33", "31", "1;33", "1;31"}


def test_the_best_is_bold_where_there_is_bold_and_starred_where_there_is_none():
    steady = {"a": (1000, 1000), "b": (2000, 2000)}
    found = tables(rows([record(job(name), replace(value(0), values=times)) for name, times in steady.items()]))
    assert "1.00*" in printed(Tables(found))
    assert "\x1b[1m1.00\x1b[0m" in printed(Tables(found), colours=True)
    assert "*" not in printed(Tables(found), colours=True)


def test_a_figure_of_one_call_is_marked_and_one_of_several_is_not():
    found = tables(
        rows([record(job("once"), value(1000)), record(job("twice"), replace(value(0), values=(2000, 2000)))])
    )
    for text in (printed(Tables(found)), markdown(found), latex(found)):
        assert re.search(r"once.* 1x", text)
        assert not re.search(r"twice.* 1x", text)
        assert "1x one call, so its noise is not known" in text


def test_marks_are_explained_only_where_they_are_used():
    calm = drawn("decode")
    assert "noisy" not in calm
    assert "~ noisy" in drawn("complete")


def test_a_reason_shared_by_several_blocks_is_given_once():
    assert drawn("complete").count("it has no window") == 1


def test_a_pipe_gets_no_escape_codes():
    assert "\x1b" not in drawn("complete")


def test_an_ascii_terminal_gets_ascii():
    assert drawn("hostile", encoding="ascii").isascii()


def test_no_blocks_print_nothing():
    assert printed(Tables([])).strip() == ""
    assert markdown([]) == ""


def test_a_live_table_leaves_out_probes_that_have_not_started_and_notes_for_the_end():
    text = printed(live(planted("pending")))
    check("pending.live", text)
    assert "memory" not in text


def test_a_live_table_holds_whole_blocks_within_the_screen():
    text = printed(live(planted("complete")), height=25)
    assert len(text.splitlines()) <= 25 - 4
    assert "Latency" in text
    assert "Peak memory" in text
    assert "Accuracy" not in text


def test_a_live_table_shows_its_first_block_on_however_small_a_screen():
    assert "Latency" in printed(live(planted("complete")), height=5)


def test_every_row_of_a_markdown_table_has_the_same_number_of_cells():
    lines = [line for line in markdown(tables(planted("hostile"))).splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_hostile_names_add_no_tag_and_no_entity_to_markdown():
    assert not re.search(r"[<>]|&(?!amp;|lt;|gt;)", markdown(tables(planted("hostile"))))


def test_every_row_of_a_latex_table_has_the_same_number_of_cells():
    lines = [line for line in latex(tables(planted("hostile"))).splitlines() if line.endswith(r"\\")]
    assert len({len(re.findall(r"(?<!\\)&", line)) for line in lines}) == 1


def test_no_row_of_a_latex_table_begins_with_an_argument_of_the_row_end_before_it():
    lines = latex(tables(planted("hostile"))).splitlines()
    assert not [line for line in lines if line.startswith(("[", "*"))]
