"""`attnbench merge`: several runs as one."""

import sys
from typing import Annotated

import typer

from attnbench.cli.options import Json, Out
from attnbench.cli.streams import emit_json
from attnbench.contracts.errors import UsageError
from attnbench.contracts.text import plain
from attnbench.store import RESULTS


def merge(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Ids, beginnings of them, paths, or `latest`.", show_default=False),
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Merge runs that were not measured alike.", metavar="")
    ] = False,
    out: Out = RESULTS,
    json: Json = False,
) -> None:
    """Merge runs into a new one, leaving them as they are: more rounds of the same cases, or more cases.

    Example:
      attnbench merge 20261121 20261122
    """
    from attnbench import store
    from attnbench.analysis.guard import mismatches
    from attnbench.runs import Run

    paths = list(dict.fromkeys(store.find_run(name, out).resolve() for name in runs))
    if len(paths) == 1:
        raise UsageError("RUN: this is one run; name at least two")
    first, *others = (Run(path).circumstances() for path in paths)
    differing = dict.fromkeys(str(each) for other in others for each in mismatches(first, other))
    if differing and not force:
        raise UsageError(
            f"RUN: the runs differ in {', '.join(differing)}, and so would their figures; "
            "--force merges them all the same"
        )
    merged = store.merge(paths, out, command=tuple(sys.argv[1:]))
    report = store.verify(merged)
    done = sum(report.statuses.values())
    if json:
        emit_json({"run": merged.name, "sources": [path.name for path in paths], "jobs": report.planned, "done": done})
    else:
        print(plain(f"run {merged.name}: {report.planned} jobs of {len(paths)} runs, {done} done"))
