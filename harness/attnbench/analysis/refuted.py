"""Costs of outputs that agreement found to be invalid: what a wrong answer costs is no figure."""

from collections.abc import Iterable

from attnbench.analysis.rows import Row
from attnbench.contracts.metrics import PRIMARY, QUALITIES, passes_of

_Key = tuple[object, ...]


def without_refuted(rows: Iterable[Row]) -> list[Row]:
    """Return rows without the costs of a case whose output was judged invalid in one of their passes.

    A row with the judgement's reason is left in their place, as of a job that failed.
    """
    rows = list(rows)
    judged = {
        _key(row, row.case.passes): row
        for row in rows
        if row.probe.kind == "agreement" and row.status == "invalid_output"
    }
    kept = []
    for row in rows:
        judgement = _judgement(row, judged)
        if judgement is None:
            kept.append(row)
        elif row.metric == row.probe.metric.name:
            kept.append(_failed_as(judgement, row))
    return kept


def _failed_as(failure: Row, row: Row) -> Row:
    """Return the row of a job that would have given `row`, had it failed as another did."""
    return Row(
        run=row.run,
        case=row.case,
        origin=row.origin,
        probe=row.probe,
        protocol=row.protocol,
        metric=row.metric,
        status=failure.status,
        unit=row.unit,
        detail=failure.detail,
        primary=row.primary,
        environment=row.environment,
    )


def _judgement(row: Row, judged: dict[_Key, Row]) -> Row | None:
    if row.probe.kind in QUALITIES or row.value is None:
        return None
    of_passes = passes_of(PRIMARY["agreement"], (row.case.passes,))
    return next((judged[key] for key in (_key(row, passes) for passes in of_passes) if key in judged), None)


def _key(row: Row, passes: str) -> _Key:
    return row.run, *row.identity, row.origin.source_hash, passes, *row.case.axes(without=("passes",)).values()
