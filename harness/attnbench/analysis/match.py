"""Pairs of comparable rows, of two runs or of two variants of one: equal in every axis of the case."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec import Struct

from attnbench.analysis.failures import examples, in_metrics
from attnbench.analysis.rows import Row
from attnbench.contracts.case import Case, Option
from attnbench.contracts.errors import UsageError
from attnbench.contracts.record import PENDING
from attnbench.contracts.specs import Spec
from attnbench.contracts.stats import FEWEST_REPLICATES
from attnbench.contracts.text import option_text, plain, with_options

TwoSpecs = tuple[Spec, Spec]  # of the base and of the new variant


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
        """Whether both sides have rounds of one run in common; trainings from the same seed share no noise."""
        same_run = bool(self.base and self.new and self.base.run == self.new.run)
        return same_run and self.one.probe.metric.replicates == "rounds"

    @property
    def obstacle(self) -> str:
        """Why the two cannot be compared; empty where they can."""
        if self.base is None or self.new is None:
            return f"only in {'the base' if self.base else 'the new'}"
        sides = {"base": self.base, "new": self.new}
        reasons = {name: _reason(row) for name, row in sides.items() if row.value is None}
        if len(reasons) > 1 and reasons["base"] == reasons["new"]:
            return f"both: {reasons['base']}"
        return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())

    @property
    def rounds(self) -> tuple[dict[int, float], dict[int, float]]:
        """The medians of both sides by round; of a pair within one run, those of the rounds in common."""
        base, new = (row.medians if row else {} for row in (self.base, self.new))
        if not self.paired:
            return base, new
        shared = sorted(base.keys() & new.keys())
        return {number: base[number] for number in shared}, {number: new[number] for number in shared}

    @property
    def is_replicated(self) -> bool:
        """Whether both sides have values of enough rounds, or seeds, to be tested."""
        return not self.obstacle and min(map(len, self.rounds)) >= FEWEST_REPLICATES

    @property
    def has_log_ratio(self) -> bool:
        """Whether the sides are tested by the ratio of their rounds, which must be above zero for that."""
        by_round = self.one.probe.metric.replicates == "rounds" and self.is_replicated
        return by_round and min(min(figures.values()) for figures in self.rounds) > 0


def match(
    base: Sequence[Row],
    new: Sequence[Row],
    *,
    metrics: Collection[str] | None = None,
    variants: TwoSpecs | None = None,
    ignoring: Collection[str] = (),
) -> list[Pair]:
    """Pair the rows of both sides, in the base's order and then the new one's.

    `ignoring` names axes that may differ. Without `metrics` the primary ones are paired. With `variants`, rows of the
    first in `base` are paired with those of the second in `new`; without, every mechanism with itself, and the
    harness's own floor is left out. Raises UsageError where a name matches no variant, or several.
    """
    if variants is None:
        sides = [[row for row in rows if not row.is_harness] for rows in (base, new)]
    else:
        sides = [_of_variant(spec, rows) for spec, rows in zip(variants, (base, new), strict=True)]
        _refuse_the_same(variants, sides)
    like = examples([*sides[0], *sides[1]], metrics)
    first, second = (_indexed(in_metrics(rows, metrics, like), ignoring, by_variant=variants is None) for rows in sides)
    return [Pair(metric=str(key[0]), base=first.get(key), new=second.get(key)) for key in {**first, **second}]


def _of_variant(spec: Spec, rows: Iterable[Row]) -> list[Row]:
    """Return the rows of the one variant that a spec names."""
    named = [row for row in rows if _is_called(row, spec.name)]
    matching = [row for row in named if has_options(row.case.options, spec.options)]
    if not matching:
        has = dict.fromkeys(map(_typed, named or rows))
        raise UsageError(f"--variants: the run has no {str(spec)!r}; it has {plain(', '.join(has))}")
    candidates = dict.fromkeys(map(_typed, matching))
    if len(candidates) > 1:
        raise UsageError(f"--variants: {str(spec)!r} may be {plain(' or '.join(candidates))}; name it with its options")
    return matching


def _typed(row: Row) -> str:
    return with_options(row.case.variant, row.case.options, keys=row.case.options)


def _refuse_the_same(variants: TwoSpecs, sides: Sequence[Sequence[Row]]) -> None:
    base, new = (rows[0] for rows in sides)
    if (base.run, *base.case.identity) == (new.run, *new.case.identity):
        raise UsageError(
            f"--variants: {str(variants[0])!r} and {str(variants[1])!r} are the same rows; name two variants"
        )


def is_of(row: Row, spec: Spec) -> bool:
    """Return whether a row is of the variant that a spec names, with the spec's options."""
    return _is_called(row, spec.name) and has_options(row.case.options, spec.options)


def _is_called(row: Row, name: str) -> bool:
    return row.case.variant == name or name.endswith(f":{row.case.variant}")


def has_options(options: Mapping[str, Option], wanted: Mapping[str, str]) -> bool:
    """Return whether options have the values in `wanted`, given as text; other options may have any value."""
    return all(key in options and same_option(option_text(options[key]), text) for key, text in wanted.items())


def same_option(one: str, other: str) -> bool:
    """Return whether two texts are the same option: 1e-3 is 0.001, True is true."""
    try:
        return one.lower() == other.lower() or float(one) == float(other)
    except ValueError:
        return False


def _indexed(rows: Iterable[Row], ignoring: Collection[str], *, by_variant: bool) -> dict[tuple[object, ...], Row]:
    """Return rows by metric and case."""
    index: dict[tuple[object, ...], Row] = {}
    for row in rows:
        variant = row.case.identity if by_variant else ()
        index[row.metric, row.task, *variant, *row.case.axes(without=ignoring).values()] = row
    return index


def _reason(row: Row) -> str:
    if row.detail == PENDING:
        return PENDING
    return ": ".join(filter(None, ("" if row.status == "ok" else row.status, row.detail or "no value")))
