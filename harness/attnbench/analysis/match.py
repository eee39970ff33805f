"""Which figures of two runs, or of two variants of one, answer the same question: by every column of the case."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct

from attnbench.analysis.floor import is_harness
from attnbench.analysis.rows import PENDING, Row
from attnbench.contracts.case import Case, Mask, Option, Shape
from attnbench.contracts.errors import UsageError
from attnbench.contracts.record import PRIMARY_METRIC, ProbeKind
from attnbench.contracts.specs import Spec
from attnbench.contracts.text import canonical, option_text, plain, with_options

_COLUMNS = (
    "task",
    *(field.name for struct in (Shape, Mask, Case) for field in msgspec.structs.fields(struct)),
)
_PARTS = ("shape", "mask")  # of a case, whose fields are columns themselves
_OF_A_VARIANT = ("variant", "options")
_NO_ROUNDS: tuple[ProbeKind, ...] = ("memory", "agreement", "accuracy")

Two = tuple[Spec, Spec]
Key = tuple[object, ...]


class Pair(Struct, frozen=True, kw_only=True):
    """A metric of one case on both sides; a side that has no such row is None, and not both are."""

    metric: str
    base: Row | None
    new: Row | None

    @property
    def one(self) -> Row:
        """Either row, for what both have in common."""
        row = self.base or self.new
        assert row is not None
        return row

    @property
    def paired(self) -> bool:
        """Whether both sides are times of the rounds of one run; trainings from the same seed share no noise."""
        same_run = bool(self.base and self.new and self.base.run == self.new.run)
        return same_run and self.one.probe not in _NO_ROUNDS

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
        """The figures of both sides by round: of a pair those of the rounds in common, in one order."""
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

    `ignoring` names columns that may differ. Without `metrics` the primary ones are paired. With `variants`, rows of
    the first in base stand against those of the second in new; without, all mechanisms against themselves, the
    harness's own floor left out. Raises UsageError where a name is of no variant, or of several.
    """
    if variants is None:
        sides = [[row for row in rows if not is_harness(row)] for rows in (base, new)]
    else:
        sides = [_only(spec, rows) for spec, rows in zip(variants, (base, new), strict=True)]
        _refuse_the_same(variants, sides)
    left_out = {*ignoring, *_PARTS, *(_OF_A_VARIANT if variants else ())}
    columns = [name for name in _COLUMNS if name not in left_out]
    measured = _measured([*sides[0], *sides[1]], metrics)
    first, second = (_indexed(rows, measured, columns) for rows in sides)
    return [Pair(metric=str(key[0]), base=first.get(key), new=second.get(key)) for key in {**first, **second}]


def _only(spec: Spec, rows: Iterable[Row]) -> list[Row]:
    """Keep the rows of the one variant that a person means."""
    named = [row for row in rows if _is_called(row, spec.name)]
    found = [row for row in named if has_options(row.options, spec.options)]
    known = {with_options(row.variant, row.options, keys=row.options): None for row in found}
    if not found:
        has = {with_options(row.variant, row.options, keys=row.options): None for row in named or rows}
        raise UsageError(f"--variants: the run has no {str(spec)!r}; it has {plain(', '.join(has))}")
    if len(known) > 1:
        raise UsageError(f"--variants: {str(spec)!r} may be {plain(' or '.join(known))}; name it with its options")
    return found


def _refuse_the_same(variants: Two, sides: Sequence[Sequence[Row]]) -> None:
    base, new = (rows[0] for rows in sides)
    if (base.run, base.variant, base.options) == (new.run, new.variant, new.options):
        raise UsageError(
            f"--variants: {str(variants[0])!r} and {str(variants[1])!r} are the same rows; name two variants"
        )


def is_of(row: Row, spec: Spec) -> bool:
    """Tell whether a row is of a variant that a person names, with the options that he gives."""
    return _is_called(row, spec.name) and has_options(row.options, spec.options)


def _is_called(row: Row, name: str) -> bool:
    return row.variant == name or name.endswith(f":{row.variant}")


def has_options(options: Mapping[str, Option], asked: Mapping[str, str]) -> bool:
    """Tell whether options are what was asked for, as text; what was not asked for may be anything."""
    return all(key in options and _equal(option_text(options[key]), text) for key, text in asked.items())


def _equal(one: str, other: str) -> bool:
    """Tell whether two texts are the same option: 1e-3 is 0.001, True is true."""
    try:
        return one.lower() == other.lower() or float(one) == float(other)
    except ValueError:
        return False


def _measured(rows: Iterable[Row], metrics: Collection[str] | None) -> dict[tuple[str, str], dict[str, None]]:
    """Find the metrics to compare of each probe and task."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        wanted = row.primary if metrics is None else row.metric in metrics
        if wanted and (row.samples or row.metric == PRIMARY_METRIC[row.probe]):
            found.setdefault((row.probe, row.task), {})[row.metric] = None
    return found


def _indexed(
    rows: Iterable[Row], measured: dict[tuple[str, str], dict[str, None]], columns: Sequence[str]
) -> dict[Key, Row]:
    """Find rows by metric and case; a case without figures stands in each metric of its probe."""
    index: dict[Key, Row] = {}
    for row in rows:
        metrics = measured.get((row.probe, row.task), {})
        failed = not row.samples and row.primary
        for metric in metrics if failed else {row.metric: None}.keys() & metrics.keys():
            index[metric, *(_plain(getattr(row, name)) for name in columns)] = row
    return index


def _reason(row: Row) -> str:
    if row.detail == PENDING:
        return PENDING
    return ": ".join(filter(None, ("" if row.status == "ok" else row.status, row.detail or "no value")))


def _plain(value: object) -> object:
    return canonical(value) if isinstance(value, dict) else value
