"""`attnbench verify`: whether a stored run is whole, and how much of it is done."""

from typing import TYPE_CHECKING

import typer

from attnbench.cli.options import Json, Out, RunName
from attnbench.cli.streams import emit_json
from attnbench.contracts.text import plain
from attnbench.store import RESULTS

if TYPE_CHECKING:
    from attnbench.store import Report


def verify(run: RunName, out: Out = RESULTS, json: Json = False) -> None:
    """Check every line of a stored run, count its jobs, and copy broken lines to a quarantine file.

    Example:
      attnbench verify latest
    """
    from attnbench import store

    report = store.verify(store.find_run(run, out))
    if json:
        emit_json(report)
    else:
        print(_sentences(report))
    if not report.sound:
        raise typer.Exit(1)


def _sentences(report: "Report") -> str:
    counts = ", ".join(f"{count} {status}" for status, count in report.statuses.items()) or "none"
    lines = [f"run {report.run}: {report.planned} jobs planned, done: {counts}, pending: {report.pending}"]
    if report.orphans:
        lines.append(f"{report.orphans} records of jobs that are no longer planned (an edited plugin, say)")
    if report.duplicates:
        lines.append(f"{report.duplicates} records repeat an attempt")
    if report.unknown:
        lines.append(f"{report.unknown} events of kinds that this version does not know")
    if report.foreign:
        lines.append(f"{report.foreign} records of other runs, which are left out: its journal is another run's")
    if report.torn:
        lines.append(f"{report.torn} lines were torn by a full disk or a kill before they were acknowledged")
    lines += [f"line {broken.line} (byte {broken.offset}) is broken: {broken.why}" for broken in report.broken]
    if report.quarantine:
        lines.append(f"broken lines were copied to {report.quarantine}")
    if report.damage:
        lines.append(report.damage)
    lines.append("OK: all records intact" if report.sound else "NOT sound")
    return "\n".join(map(plain, lines))
