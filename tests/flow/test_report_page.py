"""The report in a real browser: nothing is asked of the network, nothing goes wrong, every control works."""

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from playwright.sync_api import expect, sync_playwright

from attnbench.report.csv import to_csv
from attnbench.report.html import page
from attnbench.report.reported import Report
from helpers.reported import report
from unit.report.planted import agreements, failed, job, memories, timing, timings
from unit.report.scenarios import HOSTILE

BROWSER = next((path for path in map(Path, ("/usr/bin/chromium", "/usr/bin/google-chrome")) if path.exists()), None)
SIZES = {"laptop": (1280, 800), "phone": (390, 844)}
LENGTHS = (512, 1024, 2048, 4096)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")


def records() -> list[Any]:
    """Plant two counts of heads, every probe, a failure, and names that would be markup, commands or formulas."""
    found = [
        each
        for name in ("vanilla", "flash", "linformer")
        for heads in (4, 8)
        for each in timings(name, LENGTHS, rounds=3, heads=heads)
    ]
    for name in ("vanilla", "flash", "linformer"):
        found += [*memories(name, LENGTHS), *agreements(name, LENGTHS)]
    found += [timing(job(name, seq=seq), 1e-3 * place) for place, name in enumerate(HOSTILE, 1) for seq in LENGTHS]
    found += [failed(job(name, "memory", seq=512), "crash", name) for name in HOSTILE]
    facts = {"flops": 10**9, "bytes_least": 10**7, "bytes_executed": 10**7}
    return [replace(each, outcome=replace(each.outcome, facts=facts)) for each in found]


@pytest.fixture(scope="module")
def made() -> Report:
    return report(records())


@pytest.fixture(scope="module")
def file(made: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page(made))
    return path


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(BROWSER), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def opened(chromium: Any, file: Path) -> Iterator[Callable[..., Any]]:
    """Open the report in a window; at the end hold each to its silence and its independence."""
    troubles: list[str] = []
    contexts = []

    def open_(size: str = "laptop", **settings: Any) -> Any:
        width, height = SIZES[size]
        contexts.append(chromium.new_context(viewport={"width": width, "height": height}, **settings))
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: troubles.append(f"console: {message.text}"))
        tab.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        tab.on("dialog", lambda dialog: troubles.append(f"dialog: {dialog.message}"))
        tab.on(
            "request",
            lambda sent: sent.url.startswith((f"file://{file}", "data:", "blob:")) or troubles.append(sent.url),
        )
        tab.goto(f"file://{file}")
        return tab

    yield open_
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.fixture(scope="module")
def tab(opened: Callable[..., Any]) -> Any:
    """Return a window that tests leave as they found it."""
    return opened()


def wait(tab: Any) -> None:
    """Wait until every chart is drawn."""
    tab.locator("html[data-drawn]").wait_for()


def visible(tab: Any, section: str) -> set[str]:
    """Name the texts that a chart shows."""
    return set(tab.locator(f"#{section} .chart text").all_text_contents())


def test_every_figure_is_drawn_without_being_scrolled_to(opened: Callable[..., Any]) -> None:
    tab = opened()
    wait(tab)
    assert tab.evaluate("scrollY") == 0
    sections = [each.get_attribute("id") for each in tab.locator("section.figures").all()]
    assert sections == ["latency", "memory", "agreement", "heads", "tradeoff", "roofline"]
    assert tab.locator("section.figures .chart svg").count() == len(sections)


def test_nothing_sticks_out_of_the_window_on_a_laptop_or_a_phone(opened: Callable[..., Any], tab: Any) -> None:
    phone = opened("phone", is_mobile=True, has_touch=True)
    for each, size in ((tab, "laptop"), (phone, "phone")):
        wait(each)
        assert each.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]


def test_hostile_names_are_text_wherever_they_stand(tab: Any) -> None:
    wait(tab)
    legend = tab.locator("#legend").inner_text()
    assert "<script>alert(1)</script>" in legend
    assert r"\x1b[31mred" in legend
    assert tab.evaluate("document.querySelectorAll('script').length") == 3
    heads = tab.locator("#latency select[data-facet=heads]")
    heads.select_option("8")
    expect(tab.locator("#latency .chart text", has_text="<script>alert(1)</script>")).to_be_visible()
    tab.locator("#latency .chart [aria-label^='<script>alert(1)']").first.hover(force=True)
    assert "<script>alert(1)</script>, N = " in tab.locator(".vg-tooltip.visible").inner_text()
    tab.locator("#latency summary").click()
    tab.locator("#latency .numbers table").wait_for()
    assert "<script>alert(1)</script>, N = 512" in tab.locator("#latency .numbers").inner_text()
    tab.locator("#latency summary").click()
    heads.select_option("4")


def test_a_choice_changes_the_figure_and_its_caption(tab: Any) -> None:
    wait(tab)
    mark = tab.locator("#latency .chart [aria-label^='vanilla, N = 512']")
    before = mark.get_attribute("aria-label")
    tab.locator("#latency select[data-facet=heads]").select_option("8")
    expect(mark).not_to_have_attribute("aria-label", before)
    assert tab.locator("#latency figcaption").inner_text() == "Latency, forward; heads 8"
    tab.locator("#latency select[data-facet=heads]").select_option("4")
    expect(mark).to_have_attribute("aria-label", before)


def test_a_variant_that_is_switched_off_leaves_every_figure(tab: Any) -> None:
    wait(tab)
    tab.get_by_label("flash", exact=True).uncheck()
    for section in ("latency", "memory", "tradeoff", "roofline"):
        assert "flash" not in visible(tab, section)
        assert "vanilla" in visible(tab, section)
    tab.locator("#none").click()
    assert "vanilla" not in visible(tab, "latency")
    tab.locator("#all").click()
    assert "flash" in visible(tab, "latency")


def test_a_column_is_sorted_by_keyboard_and_says_how(tab: Any) -> None:
    table = tab.locator("#data")
    head = table.locator("th", has_text=re.compile(r"^seq q$"))
    place = head.evaluate("each => each.cellIndex")
    head.locator("button").focus()
    for direction, sign in (("ascending", 1), ("descending", -1)):
        tab.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == direction
        cells = [int(text) for text in table.locator(f"tbody td:nth-child({place + 1})").all_inner_texts()]
        assert cells == sorted(cells, key=lambda cell: sign * cell)
    outline = head.locator("button").evaluate("each => getComputedStyle(each).outlineStyle")
    assert outline == "solid"


def test_rows_are_filtered_by_words_and_by_choice_and_paged(tab: Any, made: Report) -> None:
    table = tab.locator("#data")
    status = table.locator("[role=status]")
    count = sum(len(run.rows) for run in made.runs)
    assert status.inner_text() == f"1 to 25 of {count}"
    table.locator(".next").click()
    assert status.inner_text() == f"26 to 50 of {count}"
    table.locator("input").fill("flash memory")
    wanted = [row for row in made.rows if row.case.variant == "flash" and row.metric == "memory"]
    assert status.inner_text() == f"1 to {len(wanted)} of {len(wanted)} (of {count})"
    table.locator("input").fill("")
    table.get_by_label("status").select_option("crash")
    assert status.inner_text() == f"1 to {len(HOSTILE)} of {len(HOSTILE)} (of {count})"
    table.get_by_label("status").select_option("any")


def test_the_csv_holds_what_attnbenchs_own_does_and_runs_no_cell(opened: Callable[..., Any], made: Report) -> None:
    tab = opened()  # one whose rows nobody has sorted
    with tab.expect_download() as download:
        tab.locator("#data .csv").click()
    text = download.value.path().read_bytes().decode()
    found = list(csv.DictReader(io.StringIO(text, newline="")))
    own = list(csv.DictReader(io.StringIO(to_csv(made.runs[0].rows), newline="")))
    assert download.value.suggested_filename == "attnbench-data.csv"
    assert len(found) == len(own)
    for ours, theirs in zip(found, own, strict=True):
        for name in ("variant", "options", "metric", "status", "detail", "seq_q", "unit"):
            assert ours[name] == theirs[name]
        assert (ours["value"] == "") == (theirs["value"] == "")
        if ours["value"]:
            assert float(ours["value"]) == pytest.approx(float(theirs["value"]), rel=1e-6)


def test_the_page_is_dark_where_the_system_is_and_where_it_is_asked_to_be(opened: Callable[..., Any]) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    light, dark = opened(color_scheme="light"), opened(color_scheme="dark")
    colours = {light.evaluate(background), dark.evaluate(background)}
    assert len(colours) == 2
    before = light.evaluate(background)
    light.locator("#theme").click()
    assert colours == {before, light.evaluate(background)}


def test_the_point_under_the_pointer_is_shown_with_its_exact_value(tab: Any) -> None:
    wait(tab)
    tab.locator("#latency .chart [aria-label^='flash, N = 1024']").hover(force=True)
    lines = tab.locator(".vg-tooltip.visible").inner_text().split("\n")
    assert lines[0] == "flash, N = 1024"
    assert re.fullmatch(r"[\d.]+ us \[[\d.]+, [\d.]+\]", lines[1])


def test_a_tap_shows_the_same_on_a_phone(opened: Callable[..., Any]) -> None:
    tab = opened("phone", is_mobile=True, has_touch=True)
    wait(tab)
    tab.locator("#latency .chart [aria-label^='flash, N = 1024']").tap(force=True)
    assert tab.locator(".vg-tooltip.visible").inner_text().startswith("flash, N = 1024")


def test_a_chart_is_saved_as_svg_in_colours_that_every_program_knows(opened: Callable[..., Any]) -> None:
    tab = opened(color_scheme="dark")
    wait(tab)
    with tab.expect_download() as download:
        tab.locator("#memory .save").click()
    svg = download.value.path().read_text()
    assert download.value.suggested_filename == "attnbench-memory.svg"
    assert "light-dark" not in svg
    assert "linformer" in {each.text for each in ET.fromstring(svg).iter()}


def test_a_chart_is_dark_on_a_dark_page_and_light_on_paper(opened: Callable[..., Any], tmp_path: Path) -> None:
    tab = opened(color_scheme="dark")
    wait(tab)
    ink = "getComputedStyle(document.querySelector('#latency .chart text')).fill"
    dark = tab.evaluate(ink)
    tab.pdf(path=tmp_path / "report.pdf")
    tab.emulate_media(media="print", color_scheme="dark")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.evaluate(ink) != dark
    tab.set_viewport_size({"width": 700, "height": 900})
    widths = "[...document.querySelectorAll('.chart svg')].map(each => each.getBoundingClientRect().right)"
    assert max(tab.evaluate(widths)) <= 700


def test_without_javascript_the_summary_is_shown_with_a_note_on_what_is_missing(opened: Callable[..., Any]) -> None:
    tab = opened(java_script_enabled=False)
    assert "is the fastest" in tab.locator("#summary").inner_text()
    assert "switched off here" in tab.locator("noscript").inner_text()


def test_the_embedded_data_cannot_close_its_script(file: Path) -> None:
    data = file.read_text().partition('id="report-data">')[2].partition("</script>")[0]
    assert not set("<>&") & set(data)
    words = json.loads(data)["tables"]["data"]["columns"][1]["words"]
    assert "<script>alert(1)</script>" in words
