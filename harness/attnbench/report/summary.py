"""What a run comes to: a line for each variant with what it costs and gives up, and which are on the Pareto front."""

from collections.abc import Collection, Iterable, Iterator, Sequence

import msgspec

from attnbench.analysis.pareto import FIGURES, OBJECTIVES, Front, Point, Standing, fronts, most_telling
from attnbench.analysis.rows import Row
from attnbench.contracts.case import Axes
from attnbench.contracts.text import plain
from attnbench.contracts.units import Scale
from attnbench.report.axes import TITLES, Names, axis_text, variant_labels
from attnbench.report.table import Block, Cell, Group, Line, best_of, block_scale, cell_of, tables

_HEADINGS = {"approximation_error": "error"}
_WORDS: dict[Standing, str] = {"": "", "front": "yes", "unsure": "unsure", "dominated": "no"}
_MEANING = (
    "front: yes, nothing else is at least as {} and better in one of them; unsure, by its figures something is, but no "
    "test shows it; no, something clearly is"
)
_QUALITIES = {"latency": "fast", "accuracy": "accurate", "memory": "small", "approximation_error": "close to exact"}
_OF_A_MODEL = ("seq_q", "seq_k", "heads")  # the axes that a trained model has of its own


def blocks(rows: Sequence[Row], metrics: Collection[str] | None = None) -> list[Block]:
    """Arrange rows as `tables` does, and unless metrics are asked for end with what they come to."""
    return [*tables(rows, metrics), *(summaries(rows) if metrics is None else ())]


def summaries(rows: Sequence[Row]) -> list[Block]:
    """Sum each run and pass up at one place of its sweep, the most telling, where both speed and a score are known."""
    names = variant_labels({row.identity: row.case.options for row in rows})
    grouped: dict[object, list[Front]] = {}
    for each in fronts(rows):
        grouped.setdefault((each.run, each.axes["passes"]), []).append(each)
    chosen = [front for group in grouped.values() if (front := most_telling(group))]
    several = len({front.run for front in chosen}) > 1
    return [_block(front, _of_all(front, rows), names, run=front.run if several else "") for front in chosen]


def _of_all(front: Front, rows: Sequence[Row]) -> Front | None:
    """Weigh the same points by all that is known of them; null where that is no more."""
    known = [name for name in FIGURES if any(name in point.rows for point in front.points)]
    if len(known) <= len(front.objectives):
        return None
    place = (front.run, front.axes, front.exam)
    return next((each for each in fronts(rows, known) if (each.run, each.axes, each.exam) == place), None)


def _block(front: Front, whole: Front | None, names: Names, *, run: str) -> Block:
    metrics = [name for name in FIGURES if any(name in point.rows for point in front.points)]
    columns = {name: [point.rows[name] for point in front.points if name in point.rows] for name in metrics}
    scales = {name: block_scale(column[0].unit, (row.value for row in column)) for name, column in columns.items()}
    standings = [front, *([whole] if whole else [])]
    lines = (
        Line(
            name=names[point.identity],
            cells=(
                *(_figure(point, name, scales[name], columns[name]) for name in metrics),
                *(Cell(text=_WORDS[_standing(each, point)]) for each in standings),
            ),
        )
        for point in front.points
    )
    marks = ["front", *([f"of all {len(whole.objectives)}"] if whole else [])]
    return Block(
        title=f"{f'{plain(run)}: speed' if run else 'Speed'} against accuracy, {front.axes['passes']}",
        context=_context(front),
        axes=(),
        across="",
        columns=(*(_heading(name, scales[name]) for name in metrics), *marks),
        groups=(Group(labels=(), lines=tuple(lines)),),
        notes=tuple(_notes(front, names)),
    )


def _figure(point: Point, metric: str, scale: Scale, column: Sequence[Row]) -> Cell:
    """Show a figure without its interval, which the table of its metric has."""
    if metric not in point.rows:
        return Cell()
    cell = cell_of(point.rows[metric], scale, best_of(column))
    return msgspec.structs.replace(cell, margin="")


def _standing(front: Front, point: Point) -> Standing:
    return next((each.standing for each in front.points if each.identity == point.identity), "")


def _heading(metric: str, scale: Scale) -> str:
    name = _HEADINGS.get(metric, metric)
    return f"{name} ({scale.name})" if scale.name else name


def _context(front: Front) -> str:
    """Say where the figures are of: costs at one place of the sweep, the score at the trained model's own."""
    told = [f"costs at {_place(front.axes)}"]
    if front.exam:
        own = _place({name: value for name, value in front.exam.case.axes().items() if name in _OF_A_MODEL})
        told.append(f"accuracy on {plain(front.exam.task)}, whose trained models have lengths of their own: {own}")
    return "; ".join(told)


def _place(axes: Axes) -> str:
    named = [axes["shape_name"]] if axes.get("shape_name") else []
    sizes = [f"{TITLES[name]} {axis_text(axes[name])}" for name in _sizes(axes)]
    return ", ".join(map(str, (*named, *sizes)))


def _sizes(axes: Axes) -> Iterator[str]:
    for name in ("seq_q", "seq_k", "heads", "kv_heads", "batch"):
        same = {"seq_k": "seq_q", "kv_heads": "heads"}.get(name)
        if name in axes and (same is None or axes[name] != axes[same]):
            yield name


def _notes(front: Front, names: Names) -> Iterator[str]:
    yield _MEANING.format(" and as ".join(_QUALITIES[name] for name in OBJECTIVES))
    for standing, verb in (("dominated", "dominated"), ("unsure", "perhaps dominated")):
        told: dict[str, list[str]] = {}
        for point in front.points:
            if point.standing == standing:
                told.setdefault(_listed(names[key] for key in point.by), []).append(names[point.identity])
        if told:
            yield "; ".join(f"{', '.join(them)} {verb} by {others}" for others, them in told.items())


def _listed(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
