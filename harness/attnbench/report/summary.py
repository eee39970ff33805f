"""The tables of a run with their summary: what each variant costs and gives up, and which are on the Pareto front."""

from collections.abc import Collection, Iterator, Sequence

import msgspec

from attnbench.analysis.groups import group_by
from attnbench.analysis.pareto import Front, ParetoPoint, Standing, fronts, most_telling, shown_metrics
from attnbench.analysis.rows import Row
from attnbench.contracts.case import Axes
from attnbench.contracts.metrics import metric_named
from attnbench.contracts.text import plain
from attnbench.contracts.units import Scale
from attnbench.report.axes import TITLES, VariantNames, axis_text, names_of
from attnbench.report.table import Block, Cell, Group, Line, best_of, block_scale, cell_of, tables, with_unit
from attnbench.report.text import enumerated, grouped

_HEADINGS = {"approximation_error": "error"}
_WORDS: dict[Standing, str] = {
    "front": "yes",
    "unsure": "unsure",
    "dominated": "no",
    "exact here": "exact here",
    "other regime": "no verdict",
}
_MEANING = (
    "front: yes, no variant is as good in {} and better in one; unsure, one appears better but not significantly; no, "
    "one clearly is"
)
_OF_A_QUALITY = ("seq_q", "seq_k", "heads")  # the axes that a quality has of its own


def blocks(rows: Sequence[Row], metrics: Collection[str] | None = None) -> list[Block]:
    """Arrange rows as `tables` does, followed by their summaries unless metrics are given."""
    return [*tables(rows, metrics), *(summaries(rows) if metrics is None else ())]


def summaries(rows: Sequence[Row]) -> list[Block]:
    """Return a block for each run and pass with both speeds and scores: its most telling front."""
    names = names_of(rows)
    groups = group_by(fronts(rows), lambda front: (front.run, front.axes["passes"])).values()
    chosen = [best for group in groups if (best := most_telling(group))]
    several = len({front.run for front in chosen}) > 1
    return [_block(front, _of_all_metrics(front, rows), names, run=front.run if several else "") for front in chosen]


def _of_all_metrics(front: Front, rows: Sequence[Row]) -> Front | None:
    """Return the front of the same points in all metrics that they have; None where those are the objectives."""
    metrics = shown_metrics(front)
    if len(metrics) <= len(front.objectives):
        return None
    setting = (front.run, front.axes, front.exams)
    return next((other for other in fronts(rows, metrics) if (other.run, other.axes, other.exams) == setting), None)


def _block(front: Front, whole: Front | None, names: VariantNames, *, run: str) -> Block:
    metrics = shown_metrics(front)
    columns = {name: [point.rows[name] for point in front.points if name in point.rows] for name in metrics}
    scales = {name: block_scale(column[0].unit, (row.value for row in column)) for name, column in columns.items()}
    standings = [front, *([whole] if whole else [])]
    lines = (
        Line(
            name=names[point.identity],
            cells=(
                *(_cell(point, name, scales[name], columns[name]) for name in metrics),
                *(Cell(text=_WORDS.get(_standing(one, point), "")) for one in standings),
            ),
        )
        for point in front.points
    )
    marks = ["front", *([f"of all {len(whole.objectives)}"] if whole else [])]
    return Block(
        title=f"{f'{plain(run)}: trade-off' if run else 'Trade-off'}, {front.axes['passes']}",
        context=_context(front),
        axes=(),
        across="",
        columns=(*(with_unit(_HEADINGS.get(name, metric_named(name).words), scales[name]) for name in metrics), *marks),
        groups=(Group(labels=(), lines=tuple(lines)),),
        notes=tuple(_notes(front, whole, names)),
    )


def _cell(point: ParetoPoint, metric: str, scale: Scale, column: Sequence[Row]) -> Cell:
    """Return a cell without its interval, which the table of its metric has."""
    if metric not in point.rows:
        return Cell()
    return msgspec.structs.replace(cell_of(point.rows[metric], scale, best_of(column)), margin="")


def _standing(front: Front, point: ParetoPoint) -> Standing:
    return next((other.standing for other in front.points if other.identity == point.identity), "")


def _context(front: Front) -> str:
    """Return the sizes of the costs' workload, and what each quality was measured on, with its own length."""
    parts = [f"costs at {_sizes(front.axes)}"]
    for name, exam in front.exams.items():
        own = _sizes({axis: value for axis, value in exam.case.axes().items() if axis in _OF_A_QUALITY})
        on = plain(exam.task) if exam.task else f"{plain(exam.case.inputs)} inputs"
        parts.append(f"{metric_named(name).words} on {on} at {own}")
    return "; ".join(parts)


def _sizes(axes: Axes) -> str:
    """Return the axes that have a size, but for keys and their heads where they equal the queries'."""
    sizes = [str(axes["shape_name"])] if axes.get("shape_name") else []
    for name in ("seq_q", "seq_k", "heads", "kv_heads", "batch"):
        twin = {"seq_k": "seq_q", "kv_heads": "heads"}.get(name)
        if name in axes and (twin is None or axes[name] != axes[twin]):
            sizes.append(f"{TITLES[name]} {axis_text(axes[name])}")
    return ", ".join(sizes)


def _notes(front: Front, whole: Front | None, names: VariantNames) -> Iterator[str]:
    yield _MEANING.format(" and ".join(metric_named(name).words for name in front.objectives))
    for standing, verb in (("dominated", "dominated"), ("unsure", "perhaps dominated")):
        points = [point for point in front.points if point.standing == standing]
        by_rivals = grouped((enumerated(names[rival] for rival in point.by), names[point.identity]) for point in points)
        if by_rivals:
            yield "; ".join(f"{', '.join(beaten)} {verb} by {rivals}" for rivals, beaten in by_rivals.items())
    yield from _refusals(front, "not compared", names)
    if whole is not None:
        yield from _refusals(whole, f"of all {len(whole.objectives)} not compared", names)


def _refusals(front: Front, what: str, names: VariantNames) -> Iterator[str]:
    refused = grouped((point.why, names[point.identity]) for point in front.points if point.why)
    return (f"{what}: {', '.join(variants)}: {why}" for why, variants in refused.items())
