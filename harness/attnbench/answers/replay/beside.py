"""A paper's table beside a run's rows: each published figure with ours, ratios that carry across machines, set-ups."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec
from msgspec import Struct

from attnbench.analysis.match import has_options, same_option
from attnbench.analysis.rows import Row
from attnbench.answers.replay.paper import Figure, Paper, Published
from attnbench.contracts.case import Option, Passes, canonical
from attnbench.contracts.specs import Spec, parse_specs
from attnbench.contracts.text import option_text

ABSENT = "not in this run"


class Replayed(Struct, frozen=True, kw_only=True):
    """A published figure and this run's, in base units; each null with the words for why.

    Ratios are to the paper's baseline at the same place: they carry across machines, where figures do not.
    """

    mechanism: str
    variant: str  # as --variants takes it; empty where there is none here
    metric: str
    passes: Passes
    task: str
    seq: int | None  # null where the task has a length of its own
    unit: str
    published: float | None
    published_words: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    status: str = ""
    why: str = ""  # there is no figure here
    published_ratio: float | None = None
    ratio: float | None = None
    row: Row | None = None


class Difference(Struct, frozen=True, kw_only=True):
    """A condition that was not the same: `task` names what it holds for, empty for all."""

    task: str
    name: str
    published: str
    here: str


class Replay(Struct, frozen=True, kw_only=True):
    """A whole table replayed: its figures in the paper's order, and in what the set-ups differ."""

    paper: Paper
    figures: tuple[Replayed, ...]
    differences: tuple[Difference, ...]


def replay(
    paper: Paper,
    published: Sequence[Published],
    rows: Sequence[Row],
    *,
    machine: Mapping[str, str],
    lacking: Mapping[str, str],
) -> Replay:
    """Put a run's rows beside published figures.

    `machine` says what the run's machine is, by the names of the paper's conditions; `lacking` why a task has no row.
    """
    specs = {name: _spec(each.variant) for name, each in paper.mechanisms.items() if each.variant}
    ours = {name: _rows_of(name, specs, rows) for name in specs}
    plain = [_replayed(each, paper, ours.get(each.mechanism, []), lacking) for each in published]
    bases = {_place(each): each for each in plain if each.mechanism == paper.baseline}
    return Replay(
        paper=paper,
        figures=tuple(_with_ratios(each, bases.get(_place(each))) for each in plain),
        differences=tuple(_differences(paper, plain, machine)),
    )


def task_of(figure: Figure) -> Spec:
    """Give a figure's task as a name with options."""
    return _spec(figure.task)


def _spec(text: str) -> Spec:
    (spec,) = parse_specs(text, flag="replay")
    return spec


def _rows_of(name: str, specs: Mapping[str, Spec], rows: Iterable[Row]) -> list[Row]:
    """Find the rows of a mechanism: those that have its options, and not the further ones of another mechanism."""
    own = specs[name]
    closer = [spec for spec in specs.values() if spec.name == own.name and own.options.items() < spec.options.items()]
    found = [row for row in rows if row.case.variant == own.name and has_options(row.case.options, own.options)]
    rest = [row for row in found if not any(has_options(row.case.options, spec.options) for spec in closer)]
    return rest or found  # a default may be what the other mechanism asks for by name


def _replayed(each: Published, paper: Paper, rows: Iterable[Row], lacking: Mapping[str, str]) -> Replayed:
    figure, mechanism = each.figure, paper.mechanisms.get(each.mechanism)
    row = min((row for row in rows if _answers(row, each)), key=lambda row: len(_typed(row)), default=None)
    blank = Replayed(
        mechanism=each.mechanism,
        variant=mechanism.variant if mechanism else "",
        metric=figure.metric,
        passes=figure.passes,
        task=figure.task,
        seq=each.seq,
        unit=row.unit if row else "",
        published=each.value,
        published_words=each.words,
        row=row,
    )
    if row is None:
        reason = (mechanism.reason if mechanism else "it is not mapped to a variant") or lacking.get(figure.task)
        return msgspec.structs.replace(blank, why=reason or ABSENT)
    told = {name: getattr(row, name) for name in ("value", "low", "high", "status")}
    return msgspec.structs.replace(blank, **told, why=row.detail if row.value is None else "")


def _answers(row: Row, each: Published) -> bool:
    """Tell whether a row is of the same question as a published figure, whatever the set-up."""
    figure = each.figure
    if row.metric != figure.metric or row.case.passes != figure.passes:
        return False
    if not figure.task:
        return not row.task and row.case.shape.seq_q == each.seq
    if not row.task:
        return False
    wanted = task_of(figure)
    further = _typed(row) - {*wanted.options, *figure.conditions, "preset"}  # conditions may differ, and are told
    same = _spec(row.task).name == wanted.name and not further
    return same and has_options(row.probe.task_options, wanted.options)


def _typed(row: Row) -> set[str]:
    """Name the options in which a row's task differs from its preset."""
    return set(_spec(row.task).options) if row.task else set()


def _place(each: Replayed) -> tuple[object, ...]:
    return each.metric, each.passes, each.task, each.seq


def _with_ratios(each: Replayed, base: Replayed | None) -> Replayed:
    if base is None:
        return each
    return msgspec.structs.replace(
        each, published_ratio=_over(each.published, base.published), ratio=_over(each.value, base.value)
    )


def _over(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def _differences(paper: Paper, figures: Sequence[Replayed], machine: Mapping[str, str]) -> Iterator[Difference]:
    """Name each condition that is not here what it was there, for the whole table and for each task."""
    yield from _of_conditions("", paper.conditions, [each.row for each in figures if each.row], machine)
    for figure in {each.task: each for each in paper.figures if each.task}.values():
        rows = [each.row for each in figures if each.row and each.task == figure.task]
        yield from _of_conditions(figure.task, figure.conditions, rows, machine)


def _of_conditions(
    task: str, conditions: Mapping[str, Option], rows: Sequence[Row], machine: Mapping[str, str]
) -> Iterator[Difference]:
    for name, there in conditions.items():
        here = {machine[name]} if name in machine else _values(name, rows)
        if here and not all(same_option(each, option_text(there)) for each in here):
            yield Difference(task=task, name=name, published=option_text(there), here=" and ".join(sorted(here)))


def _values(name: str, rows: Iterable[Row]) -> set[str]:
    """Collect what a condition was in the rows: an option of their task, else a column."""
    found = set()
    for row in rows:
        value = row.probe.task_options.get(name, row.case.axes().get(name))
        if isinstance(value, bool | int | float | str):
            found.add(option_text(value))
    return found


def as_dict(found: Replay) -> dict[str, object]:
    """Give a replayed table as plain data; a figure's row is named by its run and options."""
    figures = [
        {
            **{name: getattr(each, name) for name in Replayed.__struct_fields__ if name != "row"},
            "run": each.row.run if each.row else None,
            "options": canonical(each.row.case.options) if each.row else None,
        }
        for each in found.figures
    ]
    paper = {name: getattr(found.paper, name) for name in ("title", "source", "note", "conditions", "mechanisms")}
    return {**paper, "figures": figures, "differences": found.differences}
