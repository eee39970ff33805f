"""Pairs of comparable rows, of two runs or of two variants of one: equal in every axis of the case."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec import Struct

from attnbench.analysis.floor import is_harness
from attnbench.analysis.rows import Row
from attnbench.contracts.case import Case, Option
from attnbench.contracts.errors import UsageError
from attnbench.contracts.record import PENDING
from attnbench.contracts.specs import Spec
from attnbench.contracts.text import option_text, plain, with_options

Two = tuple[Spec, Spec]
Key = tuple[object, ...]


class Pair(Struct, frozen=True, kw_only=True):
    """A metric of one case on both sides; at most one side is None, where it has no such row."""

    metric: str
    base: Row | None
    new: Row | None

    @property
    def one(self) -> Row:
        """The base's row, or the new one's where there is none."""
        row = self.base or self.new
        assert row is not None
        return row

    @property
    def other(self) -> Row:
        """The new row, or the base's where there is none."""
        return self.new or self.one

    @property
    def case(self) -> Case:
        """The base's case, or the new one's where there is none."""
        return self.one.case

    @property
    def task(self) -> str:
        """The task of both; empty where the probe has none."""
        return self.one.task

    @property
    def paired(self) -> bool:
        """Whether both sides are times of the rounds of one run; trainings from the same seed share no noise."""
        same_run = bool(self.base and self.new and self.base.run == self.new.run)
        return same_run and self.one.probe.metric.replicates == "rounds"

    @property
    def obstacle(self) -> str:
        """Why the two cannot be compared at all; empty where they can."""
        if self.base is None or self.new is None:
            return f"only in {'the base' if self.base else 'the new'}"
        sides = {"base": self.base, "new": self.new}
        lacking = {name: _reason(row) for name, row in sides.items() if row.value is None}
        if len(lacking) > 1 and lacking["base"] == lacking["new"]:
            return f"both: {lacking['base']}"
        return "; ".join(f"{name}: {reason}" for name, reason in lacking.items())

    @property
    def rounds(self) -> tuple[dict[int, float], dict[int, float]]:
        """The medians of both sides by round; of a pair within one run, those of the rounds in common."""
        base, new = (row.medians if row else {} for row in (self.base, self.new))
        if not self.paired:
            return base, new
        shared = sorted(base.keys() & new.keys())
        return {number: base[number] for number in shared}, {number: new[number] for number in shared}


def match(
    base: Sequence[Row],
    new: Sequence[Row],
    *,
    metrics: Collection[str] | None = None,
    variants: Two | None = None,
    ignoring: Collection[str] = (),
) -> list[Pair]:
    """Pair the rows of both sides, in the base's order and then the new one's.

    `ignoring` names axes that may differ. Without `metrics` the primary ones are paired. With `variants`, rows of the
    first in base stand against those of the second in new; without, all mechanisms against themselves, the harness's
    own floor left out. Raises UsageError where a name matches no variant, or several.
    """
    if variants is None:
        sides = [[row for row in rows if not is_harness(row)] for rows in (base, new)]
    else:
        sides = [_only(spec, rows) for spec, rows in zip(variants, (base, new), strict=True)]
        _refuse_the_same(variants, sides)
    measured = _measured([*sides[0], *sides[1]], metrics)
    first, second = (_indexed(rows, measured, ignoring, by_variant=variants is None) for rows in sides)
    return [Pair(metric=str(key[0]), base=first.get(key), new=second.get(key)) for key in {**first, **second}]


def _only(spec: Spec, rows: Iterable[Row]) -> list[Row]:
    """Return the rows of the one variant that a spec names."""
    named = [row for row in rows if _is_called(row, spec.name)]
    matching = [row for row in named if has_options(row.case.options, spec.options)]
    known = dict.fromkeys(map(_typed, matching))
    if not matching:
        has = dict.fromkeys(map(_typed, named or rows))
        raise UsageError(f"--variants: the run has no {str(spec)!r}; it has {plain(', '.join(has))}")
    if len(known) > 1:
        raise UsageError(f"--variants: {str(spec)!r} may be {plain(' or '.join(known))}; name it with its options")
    return matching


def _typed(row: Row) -> str:
    return with_options(row.case.variant, row.case.options, keys=row.case.options)


def _refuse_the_same(variants: Two, sides: Sequence[Sequence[Row]]) -> None:
    base, new = (rows[0] for rows in sides)
    if (base.run, *base.case.identity) == (new.run, *new.case.identity):
        raise UsageError(
            f"--variants: {str(variants[0])!r} and {str(variants[1])!r} are the same rows; name two variants"
        )


def is_of(row: Row, spec: Spec) -> bool:
    """Return whether a row is of the variant that a spec names, with the options that it gives."""
    return _is_called(row, spec.name) and has_options(row.case.options, spec.options)


def _is_called(row: Row, name: str) -> bool:
    return row.case.variant == name or name.endswith(f":{row.case.variant}")


def has_options(options: Mapping[str, Option], asked: Mapping[str, str]) -> bool:
    """Return whether options have the values in `asked`, given as text; all others may have any."""
    return all(key in options and same_option(option_text(options[key]), text) for key, text in asked.items())


def same_option(one: str, other: str) -> bool:
    """Return whether two texts are the same option: 1e-3 is 0.001, True is true."""
    try:
        return one.lower() == other.lower() or float(one) == float(other)
    except ValueError:
        return False


def _measured(rows: Iterable[Row], metrics: Collection[str] | None) -> dict[tuple[str, str], dict[str, None]]:
    """Return the metrics to compare of each probe and task."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        wanted = row.primary if metrics is None else row.metric in metrics
        if wanted and (row.samples or row.metric == row.probe.metric.name):
            found.setdefault((row.probe.kind, row.task), {})[row.metric] = None
    return found


def _indexed(
    rows: Iterable[Row],
    measured: dict[tuple[str, str], dict[str, None]],
    ignoring: Collection[str],
    *,
    by_variant: bool,
) -> dict[Key, Row]:
    """Return rows by metric and case; a case without figures stands in each metric of its probe."""
    index: dict[Key, Row] = {}
    for row in rows:
        metrics = measured.get((row.probe.kind, row.task), {})
        failed = not row.samples and row.primary
        variant = row.case.identity if by_variant else ()
        case = (row.task, *variant, *row.case.axes(without=ignoring).values())
        for metric in metrics if failed else {row.metric: None}.keys() & metrics.keys():
            index[metric, *case] = row
    return index


def _reason(row: Row) -> str:
    if row.detail == PENDING:
        return PENDING
    return ": ".join(filter(None, ("" if row.status == "ok" else row.status, row.detail or "no value")))
