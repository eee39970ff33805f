"""Runs as one self-contained HTML page: sentences first, then figures, tables, and how to measure it again."""

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import msgspec

from attnbench.analysis.comparability import mismatches
from attnbench.analysis.compare import compare
from attnbench.analysis.summary import Summary, summarise
from attnbench.contracts.text import plain
from attnbench.report.comparison import SESSIONS
from attnbench.report.comparison import summary as compared_in_words
from attnbench.report.conclusion import conclusion
from attnbench.report.csv import FORMULA
from attnbench.report.figure import Drawn, Figure, Section
from attnbench.report.heads import by_heads
from attnbench.report.images import script as vega_script
from attnbench.report.lengths import by_length
from attnbench.report.listings import Listing, listings, of_pairs
from attnbench.report.reported import Report, ReportedRun
from attnbench.report.reproduction import sections as parts_of
from attnbench.report.roofline import by_intensity
from attnbench.report.sentences import sentences
from attnbench.report.styles import dash_of_run, style
from attnbench.report.tradeoffs import by_cost
from attnbench.report.vega import chart

_MOST_SHOWN = 12  # variants in a figure, until the reader asks for more
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}

Json = dict[str, Any]


def page(report: Report) -> str:
    """Render the page. Names and reasons stay text everywhere, whatever they contain."""
    from jinja2 import Environment

    folder = files("attnbench.report") / "page"
    style_sheet, script, template = (
        (folder / name).read_text("utf-8") for name in ("report.css", "report.js", "report.html.j2")
    )
    summaries = [summarise(run.rows) for run in report.runs]
    drawn = sections(report, summaries)
    tables = listings(report, summaries)
    against = list(_against(report))
    made = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template)
    return made.render(
        title=_title(report),
        version=version("attnbench"),
        style=style_sheet,
        script=script,
        vega=vega_script(),
        data=_embedded(_data(report, drawn, tables, against)),
        summaries=[_summary(report, index, each) for index, each in enumerate(summaries)],
        contents=_contents(drawn, tables, against),
        sections=drawn,
        legend=_legend(report, drawn),
        run_dashes=_run_dashes(report),
        compared=against,
        tables=tables,
        runs=[_run(report, run) for run in range(len(report.runs))],
        reproductions=[_reproduction(run) for run in report.runs],
    )


def sections(report: Report, summaries: Sequence[Summary]) -> list[Section]:
    """Return all figures of a report, by section."""
    return [
        *by_length(report),
        *by_heads(report, [each.against for each in summaries]),
        *by_cost(report),
        *by_intensity(report),
    ]


def figures(report: Report) -> list[Drawn]:
    """Return all figures of a report, in one list."""
    summaries = [summarise(run.rows) for run in report.runs]
    return [figure for section in sections(report, summaries) for figure in section.figures]


def _title(report: Report) -> str:
    if report.several:
        return f"attnbench: {len(report.runs)} runs side by side"
    return f"attnbench: run {report.run_names[0]}"


def _contents(drawn: Sequence[Section], tables: Sequence[Listing], against: Sequence[Json]) -> list[tuple[str, str]]:
    between = [("runs", "Runs")] if against else []
    figures_of, tables_of = ([(each.key, each.title) for each in group] for group in (drawn, tables))
    return [("summary", "Summary"), *between, *figures_of, *tables_of, ("environment", "Environment")]


def _summary(report: Report, run: int, summary: Summary) -> Json:
    """Return the sentences about a run, grouped by topic."""
    topics: dict[str, list[str]] = {}
    if concluded := conclusion(report.runs[run].rows, report.names):
        topics["Conclusion"] = concluded
    for each in sentences(summary, report.names):
        topics.setdefault(each.topic, []).append(each.text)
    return {"run": report.run_names[run] if report.several else "", "topics": list(topics.items())}


def _against(report: Report) -> Iterator[Json]:
    """Compare every other run with the first; differences between their machines are listed, not refused."""
    first, *others = report.runs
    for run, other in enumerate(others, start=1):
        differing = mismatches(first.circumstances, other.circumstances)
        comparison = compare(first.rows, other.rows, ignoring=[each.name for each in differing])
        comparison = msgspec.structs.replace(comparison, differs=tuple(map(str, differing)))
        if comparison.pairs:
            yield {
                "title": f"{report.run_names[run]} against {report.run_names[0]}",
                "texts": [*compared_in_words(comparison), SESSIONS],
                "table": f"runs-{run}",
                "coded": of_pairs(comparison.pairs),
            }


def _data(report: Report, drawn: Sequence[Section], tables: Sequence[Listing], against: Sequence[Json]) -> Json:
    return {
        "formula": FORMULA,
        "sections": {each.key: [_drawn(figure, several=report.several) for figure in each.figures] for each in drawn},
        "tables": {
            **{each.key: each.table for each in tables},
            **{each["table"]: each["coded"] for each in against},
        },
    }


def _drawn(figure: Drawn, *, several: bool) -> Json:
    described = chart(figure, several=several)
    return {"title": figure.title, "facets": figure.facets, "notes": figure.notes, "chart": described}


def _embedded(data: Json) -> str:
    """Encode JSON without any character that could end a script element."""
    text = msgspec.json.encode(data).decode()
    for sign, escape in _ESCAPES.items():
        text = text.replace(sign, escape)
    return text


def _legend(report: Report, drawn: Sequence[Section]) -> list[Json]:
    shown = _shown_first(report, drawn)
    looks = [style(variant) for variant in range(len(report.legend))]
    dashes = [() if report.several else look.dash for look in looks]
    return [
        {"name": name, "style": look, "dash": _dashed(dash), "shown": variant in shown}
        for variant, (name, look, dash) in enumerate(zip(report.legend, looks, dashes, strict=True))
    ]


def _shown_first(report: Report, drawn: Sequence[Section]) -> set[int]:
    """Return the variants that figures show at first: all, or if there are too many the first and the fastest.

    The fastest take the least time for a token, at the end of their lines; variants side by side share a length.
    """
    count = len(report.legend)
    if count <= _MOST_SHOWN:
        return set(range(count))
    ends: dict[int, list[float]] = {}
    for figure in (figure for section in drawn if section.key == "latency" for figure in section.figures):
        if isinstance(figure, Figure):
            for series in figure.series:
                if series.variant is not None:
                    tokens = 1 if figure.x.names else series.points[-1].x
                    ends.setdefault(series.variant, []).append(series.points[-1].y / tokens)
    fastest = sorted(ends, key=lambda variant: sum(ends[variant]) / len(ends[variant]))
    return {0, *(fastest or range(count))[: _MOST_SHOWN - 1]}


def _dashed(lengths: Sequence[float]) -> str:
    return " ".join(f"{each:g}" for each in lengths)


def _run_dashes(report: Report) -> list[Json]:
    if not report.several:
        return []
    return [{"name": name, "dash": _dashed(dash_of_run(run))} for run, name in enumerate(report.run_names)]


def _run(report: Report, run: int) -> Json:
    """Return the name of a run with its date, machine and versions."""
    reproduction = report.runs[run].reproduction
    machine = reproduction["environments"][0] if reproduction["environments"] else {}
    facts = [
        reproduction["created"],
        machine.get("device_name") or machine.get("cpu"),
        f"{machine.get('threads')} thread{'s' * (machine.get('threads') != 1)}",
        f"torch {machine.get('torch')}",
        f"attnbench {machine.get('attnbench')}",
    ]
    return {"name": report.run_names[run], "facts": plain(", ".join(str(each) for each in facts if each))}


def _reproduction(run: ReportedRun) -> Json:
    parts = list(parts_of(run.reproduction))
    titles = [plain(str(part[""])) for part in parts]
    numbered = [
        f"{title} {titles[: index + 1].count(title)}" if titles.count(title) > 1 else title
        for index, title in enumerate(titles)
    ]
    facts = [{"title": title, "facts": _facts(part)} for title, part in zip(numbered, parts, strict=True)]
    return {"run": plain(run.run), "command": plain(run.reproduction["command"]), "parts": facts}


def _facts(part: Json) -> list[tuple[str, list[str]]]:
    """Return facts as text, with a line for each value of a list."""
    return [
        (plain(name.replace("_", " ")), [_text(each) for each in (value if isinstance(value, list) else [value])])
        for name, value in part.items()
        if name and value not in ("", None, [], {})
    ]


def _text(value: object) -> str:
    if isinstance(value, dict):
        return plain(", ".join(f"{name}={each}" for name, each in value.items()))
    return plain(str(value))
