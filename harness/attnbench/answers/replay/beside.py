"""A paper's table beside a run's rows: each published value with ours, ratios that carry across machines, set-ups."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from attnbench.analysis.match import has_options, same_option
from attnbench.analysis.rows import Row
from attnbench.answers.replay.paper import Paper, Published, Quantity
from attnbench.contracts.case import Option, Passes, canonical
from attnbench.contracts.lengths import parse_by_length
from attnbench.contracts.specs import Spec, parse_specs
from attnbench.contracts.text import option_text

ABSENT = "not in this run"


class ReplayedValue(Struct, frozen=True, kw_only=True):
    """A published value and this run's, in base units; each null with the words for why.

    Ratios are relative to the paper's baseline at the same length: they carry across machines, where values do not.
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
    """A condition that was not the same; `task` is the task that it is of, empty for all."""

    task: str
    name: str
    published: str
    here: str


class Replay(Struct, frozen=True, kw_only=True):
    """A replayed table: its values in the paper's order, and the differences between the set-ups."""

    paper: Paper
    figures: tuple[ReplayedValue, ...]
    differences: tuple[Difference, ...]


def replay(
    paper: Paper,
    published: Sequence[Published],
    rows: Sequence[Row],
    *,
    machine: Mapping[str, str],
    lacking: Mapping[str, str],
) -> Replay:
    """Match a run's rows with published values.

    `machine` has the conditions of the run's machine, by the paper's names; `lacking` the reason why a task has no row.
    """
    specs = {name: _spec(one.variant) for name, one in paper.mechanisms.items() if one.variant}
    ours = {name: _rows_of(name, specs, rows) for name in specs}
    values = [_replayed(one, paper, ours.get(one.mechanism, []), lacking) for one in published]
    baseline = {_setting(value): value for value in values if value.mechanism == paper.baseline}
    return Replay(
        paper=paper,
        figures=tuple(_with_ratios(value, baseline.get(_setting(value))) for value in values),
        differences=tuple(_differences(paper, values, machine)),
    )


def task_of(quantity: Quantity) -> Spec:
    """Return a quantity's task as a name with options."""
    return _spec(quantity.task)


def _spec(text: str) -> Spec:
    (spec,) = parse_specs(text, flag="replay")
    return spec


def _rows_of(name: str, specs: Mapping[str, Spec], rows: Iterable[Row]) -> list[Row]:
    """Return the rows with the options of a mechanism, without those of a mechanism with more of these options."""
    own = specs[name]
    closer = [spec for spec in specs.values() if spec.name == own.name and own.options.items() < spec.options.items()]
    matching = [row for row in rows if row.case.variant == own.name and _has(row, own)]
    rest = [row for row in matching if not any(_has(row, spec) for spec in closer)]
    return rest or matching  # a default may be what the other mechanism names


def _has(row: Row, spec: Spec) -> bool:
    """Return whether a row has the options of a spec; those that follow the length, at the row's own."""
    rules = {name: rule for name, text in spec.options.items() if (rule := parse_by_length(text))}
    at_length = {name: option_text(rule.at(row.case.shape.seq_k)) for name, rule in rules.items()}
    return has_options(row.case.options, spec.options | at_length)


def _replayed(published: Published, paper: Paper, rows: Iterable[Row], lacking: Mapping[str, str]) -> ReplayedValue:
    quantity, mechanism = published.quantity, paper.mechanisms.get(published.mechanism)
    matching = (row for row in rows if _answers(row, published))
    row = min(matching, key=lambda row: len(_typed_options(row)), default=None)
    draft = ReplayedValue(
        mechanism=published.mechanism,
        variant=mechanism.variant if mechanism else "",
        metric=quantity.metric,
        passes=quantity.passes,
        task=quantity.task,
        seq=published.seq,
        unit=row.unit if row else "",
        published=published.value,
        published_words=published.words,
        row=row,
    )
    if row is None:
        reason = (mechanism.reason if mechanism else "it is not mapped to a variant") or lacking.get(quantity.task)
        return replace(draft, why=reason or ABSENT)
    why = row.detail if row.value is None else ""
    return replace(draft, value=row.value, low=row.low, high=row.high, status=row.status, why=why)


def _answers(row: Row, published: Published) -> bool:
    """Return whether a row measures what was published, under whichever conditions."""
    quantity = published.quantity
    if row.metric != quantity.metric or row.case.passes != quantity.passes:
        return False
    if not quantity.task:
        return not row.task and row.case.shape.seq_q == published.seq
    if not row.task:
        return False
    wanted = task_of(quantity)
    others = _typed_options(row) - {*wanted.options, *quantity.conditions, "preset"}  # conditions may differ
    same = _spec(row.task).name == wanted.name and not others
    return same and has_options(row.probe.task_options, wanted.options)


def _typed_options(row: Row) -> set[str]:
    """Return the options in which a row's task differs from its preset."""
    return set(_spec(row.task).options) if row.task else set()


def _setting(value: ReplayedValue) -> tuple[object, ...]:
    return value.metric, value.passes, value.task, value.seq


def _with_ratios(value: ReplayedValue, baseline: ReplayedValue | None) -> ReplayedValue:
    if baseline is None:
        return value
    published, ours = _ratio(value.published, baseline.published), _ratio(value.value, baseline.value)
    return replace(value, published_ratio=published, ratio=ours)


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def _differences(paper: Paper, values: Sequence[ReplayedValue], machine: Mapping[str, str]) -> Iterator[Difference]:
    """Yield each condition that differs, for the whole table and for each task."""
    yield from _of_conditions("", paper.conditions, [value.row for value in values if value.row], machine)
    for quantity in {one.task: one for one in paper.figures if one.task}.values():
        rows = [value.row for value in values if value.row and value.task == quantity.task]
        yield from _of_conditions(quantity.task, quantity.conditions, rows, machine)


def _of_conditions(
    task: str, conditions: Mapping[str, Option], rows: Sequence[Row], machine: Mapping[str, str]
) -> Iterator[Difference]:
    for name, there in conditions.items():
        here = {machine[name]} if name in machine else _values(name, rows)
        if here and not all(same_option(value, option_text(there)) for value in here):
            yield Difference(task=task, name=name, published=option_text(there), here=" and ".join(sorted(here)))


def _values(name: str, rows: Iterable[Row]) -> set[str]:
    """Return the values of a condition in the rows: an option of their task, else an axis."""
    values = (row.probe.task_options.get(name, row.case.axes().get(name)) for row in rows)
    return {option_text(value) for value in values if value is not None}


def as_dict(table: Replay) -> dict[str, object]:
    """Return a replayed table as plain data; a value's row is named by its run and options."""
    figures = [
        {
            **{name: getattr(value, name) for name in ReplayedValue.__struct_fields__ if name != "row"},
            "run": value.row.run if value.row else None,
            "options": canonical(value.row.case.options) if value.row else None,
        }
        for value in table.figures
    ]
    paper = {name: getattr(table.paper, name) for name in ("title", "source", "note", "conditions", "mechanisms")}
    return {**paper, "figures": figures, "differences": table.differences}
