"""Failures as rows of the metrics that they lack: a failed job has one row, under its probe's primary metric."""

from collections.abc import Collection, Iterable, Iterator, Mapping

from msgspec.structs import replace

from attnbench.analysis.rows import Row

_Key = tuple[str, str, str]
Examples = Mapping[_Key, Mapping[str, Row]]  # by what a job asks, then by metric


def examples(rows: Iterable[Row], metrics: Collection[str] | None) -> Examples:
    """Return a row with samples for each of the metrics (None: the primary ones), by what its job asked."""
    found: dict[_Key, dict[str, Row]] = {}
    for row in rows:
        if row.samples and _is_wanted(row, metrics):
            found.setdefault(_asked(row), {}).setdefault(row.metric, row)
    return found


def in_metrics(rows: Iterable[Row], metrics: Collection[str] | None, like: Examples) -> Iterator[Row]:
    """Yield the rows of metrics (None: the primary ones), and a failure once for each metric of which `like` has a row.

    A failure takes the unit and the direction of the metric under which it stands.
    """
    for row in rows:
        measured = like.get(_asked(row))
        if measured and row.primary and not row.samples:
            yield from (_as_of(row, example) for example in measured.values())
        elif _is_wanted(row, metrics):
            yield row


def _asked(row: Row) -> _Key:
    return row.probe.kind, row.task, row.probe.metric.name


def _as_of(failure: Row, example: Row) -> Row:
    return replace(
        failure,
        metric=example.metric,
        unit=example.unit,
        higher_is_better=example.higher_is_better,
        primary=example.primary,
    )


def _is_wanted(row: Row, metrics: Collection[str] | None) -> bool:
    return row.primary if metrics is None else row.metric in metrics
