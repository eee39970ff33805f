"""`attnbench list`: the installed variants, suites, tasks and metrics, and the stored runs, with their origins."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnbench.cli.options import Details, Json, Out
from attnbench.cli.streams import emit_json
from attnbench.contracts.errors import UsageError, suggestion
from attnbench.contracts.metrics import METRICS, Metric
from attnbench.report.text import listing, paragraph
from attnbench.store import RESULTS

if TYPE_CHECKING:
    from attnbench.contracts.variant import Support

Item = dict[str, Any]


def list_things(
    what: Annotated[
        str, typer.Argument(metavar="WHAT", help="variants, suites, tasks, metrics or runs.", show_default=False)
    ],
    details: Details = False,
    out: Out = RESULTS,
    json: Json = False,
) -> None:
    """List installed variants, suites and tasks, or stored runs, and where each comes from.

    Examples:
      attnbench list variants --details
      attnbench list runs --json
    """
    kinds = {"variants": _variants, "suites": _suites, "tasks": _tasks, "metrics": _metrics, "runs": _runs}
    if what not in kinds:
        raise UsageError(f"list: {what!r} is not one of {', '.join(kinds)}; {suggestion(what, kinds)}")
    items = kinds[what](out, details)
    if json:
        emit_json(list(items))
    elif details:
        for item in items:
            print(paragraph(item) + "\n")
    else:
        print(listing(list(items), nothing=f"there are no {what}"))


def _variants(_out: Path, details: bool) -> Iterator[Item]:
    from attnbench.execute.local import LocalExecutor
    from attnbench.planning import survey
    from attnbench.plugins import registry

    if not details:
        yield from _origins(registry.entries("variants"))
        return
    with closing(LocalExecutor()) as executor:
        for one in survey.variants(executor, survey.machine(executor)):
            description = one.description
            yield {
                "name": one.name,
                "from": str(one.entry.origin),
                "summary": description.summary,
                "options": [_option(field) for field in description.fields],
                "serves": _served(description.support) if description.support else [],
                "refuses": _refused(description.support) if description.support else [],
                f"on {one.device}": (one.obstacle and f"does not run: {one.obstacle}") or "runs",
            }


def _tasks(_out: Path, details: bool) -> Iterator[Item]:
    from attnbench.execute.local import LocalExecutor
    from attnbench.planning import survey
    from attnbench.plugins import registry

    if not details:
        yield from _origins(registry.entries("tasks"))
        return
    with closing(LocalExecutor()) as executor:
        for entry, description in survey.tasks(executor):
            yield {
                "name": entry.name,
                "from": str(entry.origin),
                "summary": description.summary or description.failure,
                "presets": ", ".join(description.presets),
                "options": [_option(field) for field in description.fields],
            }


def _metrics(_out: Path, details: bool) -> Iterator[Item]:
    from attnbench.execute.local import LocalExecutor
    from attnbench.planning import survey
    from attnbench.plugins import registry

    yield from ({"name": name, "from": "attnbench"} | _described(metric) for name, metric in METRICS.items())
    if not details:
        yield from _origins(registry.entries("metrics"))
        return
    with closing(LocalExecutor()) as executor:
        for entry, description in survey.metrics(executor):
            about = _described(description.metric) if description.metric else {"problem": description.failure}
            yield {"name": entry.name, "from": str(entry.origin), "summary": description.summary} | about


def _described(metric: Metric) -> Item:
    better = "higher is better" if metric.higher_is_better else "lower is better"
    return {"unit": metric.unit, "probe": metric.probe, "direction": better, "title": metric.title}


def _suites(_out: Path, details: bool) -> Iterator[Item]:
    from attnbench.plugins import registry

    for name, claims in registry.entries("suites").items():
        for entry in claims:
            yield {"name": name, "from": str(entry.origin)} | _content(name, details)


def _content(name: str, details: bool) -> Item:
    """Return the content of a suite, or the problem with it."""
    import msgspec

    from attnbench.planning.suites import find_suite

    try:
        suite = find_suite(name)
    except UsageError as mistake:
        return {"problem": str(mistake).removeprefix("--suite: ")}
    item: Item = {"summary": suite.description}
    if details:
        item["sweep"] = msgspec.to_builtins(suite.sweep)
        item |= {f"on {device}": msgspec.to_builtins(sweep) for device, sweep in suite.on.items()}
    return item


def _runs(out: Path, details: bool) -> Iterator[Item]:
    from attnbench.store import list_runs

    for run in list_runs(out):
        started = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.created_s)) if run.created_s else ""
        counts = ", ".join(f"{count} {status}" for status, count in run.statuses.items())
        item = {
            "run": run.run,
            "started": started,
            "done": f"{run.done}/{run.planned}",
            "command": " ".join(run.command),
        }
        yield item | ({"statuses": counts} if details else {}) | ({"damage": run.damage} if run.damage else {})


def _origins(entries: dict[str, tuple[Any, ...]]) -> Iterator[Item]:
    for name, claims in entries.items():
        for entry in claims:
            yield {"name": name, "from": str(entry.origin), "target": entry.target}


def _option(field: Any) -> str:
    meaning = f": {field.meaning}" if field.meaning else ""
    return f"{field.name}={field.default} ({field.type}){meaning}"


_ABILITIES = {
    "full": "full attention",
    "causal": "causal",
    "window": "window",
    "cross": "cross-attention",
    "grouped": "grouped heads",
}


def _served(support: "Support") -> list[str]:
    yes = [meaning for name, meaning in _ABILITIES.items() if getattr(support, name) is True]
    kind = ("exact" if support.exact else "approximate") + (", from tokens" if support.level == "layer" else "")
    served = [f"{kind}; {', '.join(yes)}", f"passes {', '.join(support.passes)}", f"dtypes {', '.join(support.dtypes)}"]
    return served if support.growth is None else [*served, f"time grows with the sequence as N^{support.growth:g}"]


def _refused(support: "Support") -> list[str]:
    answers = {meaning: getattr(support, name) for name, meaning in _ABILITIES.items()}
    return [f"{meaning}: {answer or 'not defined'}" for meaning, answer in answers.items() if answer is not True]
