"""The report in a real browser: nothing is asked of the network, nothing goes wrong, every control works."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

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
    found += [timing(job(name, seq=seq), 1e-3) for name in HOSTILE for seq in LENGTHS]
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
    from playwright.sync_api import sync_playwright

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
    """Give a window that tests leave as they found it."""
    return opened()


def draw_all(tab: Any) -> None:
    for section in tab.locator("section.figures").all():
        section.scroll_into_view_if_needed()
        section.locator(".chart .main-svg").first.wait_for()


def visible(tab: Any, section: str) -> list[str]:
    """Name the traces that a figure shows."""
    code = "id => document.querySelector(`#${id} .chart`).data.filter(t => t.visible !== false).map(t => t.name)"
    names: list[str] = tab.evaluate(code, section)
    return names


def test_every_figure_is_drawn_once_it_comes_near_and_none_before(opened: Callable[..., Any]) -> None:
    tab = opened()
    assert tab.locator("#roofline .chart .main-svg").count() == 0
    draw_all(tab)
    sections = [each.get_attribute("id") for each in tab.locator("section.figures").all()]
    assert sections == ["latency", "memory", "agreement", "heads", "tradeoff", "roofline"]


def test_nothing_sticks_out_of_the_window_on_a_laptop_or_a_phone(opened: Callable[..., Any], tab: Any) -> None:
    phone = opened("phone", is_mobile=True, has_touch=True)
    for each, size in ((tab, "laptop"), (phone, "phone")):
        draw_all(each)
        assert each.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]


def test_hostile_names_are_text_wherever_they_stand(tab: Any) -> None:
    draw_all(tab)
    legend = tab.locator("#legend").inner_text()
    assert "<script>alert(1)</script>" in legend
    assert r"\x1b[31mred" in legend
    assert tab.evaluate("document.querySelectorAll('script').length") == 3
    heads = tab.locator("#latency select[data-facet=heads]")
    heads.select_option("8")
    tab.locator("#latency summary").click()
    tab.locator("#latency .numbers table").wait_for()
    assert "<script>alert(1)</script>, N = 512" in tab.locator("#latency .numbers").inner_text()
    hovered = tab.evaluate("Object.values(document.querySelector('#latency .chart').data.map(t => t.name))")
    assert any("&lt;script&gt;" in name for name in hovered)
    tab.locator("#latency summary").click()
    heads.select_option("4")


def test_a_choice_changes_the_figure_and_its_caption(tab: Any) -> None:
    chart = "document.querySelector('#latency .chart').data[0].y"
    tab.locator("#latency .main-svg").first.wait_for()
    before = tab.evaluate(chart)
    tab.locator("#latency select[data-facet=heads]").select_option("8")
    assert tab.evaluate(chart) != before
    assert tab.locator("#latency figcaption").inner_text() == "Latency, forward; heads 8"
    tab.locator("#latency select[data-facet=heads]").select_option("4")
    assert tab.evaluate(chart) == before


def test_a_variant_that_is_switched_off_leaves_every_figure(tab: Any) -> None:
    draw_all(tab)
    tab.get_by_label("flash", exact=True).uncheck()
    for section in ("latency", "memory", "tradeoff", "roofline"):
        assert "flash" not in visible(tab, section)
        assert "vanilla" in visible(tab, section)
    tab.locator("#none").click()
    assert not [name for name in visible(tab, "latency") if name == "vanilla"]
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


def test_rows_are_found_by_words_and_by_choice_and_turned_by_pages(tab: Any, made: Report) -> None:
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


def test_paper_is_light_and_has_every_figure(opened: Callable[..., Any], tmp_path: Path) -> None:
    tab = opened(color_scheme="dark")
    tab.pdf(path=tmp_path / "report.pdf")
    assert tab.locator(".chart .main-svg").count() >= 6
    tab.emulate_media(media="print", color_scheme="dark")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_without_javascript_the_summary_is_there_and_what_lacks_is_said(opened: Callable[..., Any]) -> None:
    tab = opened(java_script_enabled=False)
    assert "is the fastest" in tab.locator("#summary").inner_text()
    assert "switched off here" in tab.locator("noscript").inner_text()


def test_the_embedded_data_can_end_no_script(file: Path) -> None:
    data = file.read_text().partition('id="report-data">')[2].partition("</script>")[0]
    assert not set("<>&") & set(data)
    words = json.loads(data)["tables"]["data"]["columns"][1]["words"]
    assert "<script>alert(1)</script>" in words
