"""`attnbench run`: plan, measure, store, and print the table."""

import sys
from typing import Annotated

import typer
from msgspec.structs import replace

from attnbench.cli.flags import refuse
from attnbench.cli.options import WHERE, Json, Out, option, switch
from attnbench.contracts.errors import UsageError
from attnbench.planning.request import Request
from attnbench.store import RESULTS

_GO_WITH_RESUME = ("--resume", "--retry-failed", "--strict", "--out", "--json")


def run(
    *,
    context: typer.Context,
    request: Request,
    out: Out = RESULTS,
    resume: Annotated[str | None, option("Resume a run, as it was started.", "RUN", panel=WHERE)] = None,
    retry_failed: Annotated[
        bool, switch("--retry-failed", "With --resume: measure failed cases again.", panel=WHERE)
    ] = False,
    strict: Annotated[bool, switch("--strict", "Exit with 1 if a case failed or leaks.", panel=WHERE)] = False,
    dry_run: Annotated[bool, switch("--dry-run", "Say what it would take; measure nothing.", panel=WHERE)] = False,
    json: Json = False,
) -> None:
    """Measure mechanisms over sequence lengths and heads, store every sample, and print the table.

    Axes that no flag gives are those of the suite.

    Examples:
      attnbench run --seq 512..16384
      attnbench run --variants vanilla,linformer:k=128,./mine.py:Mine
      attnbench run --resume latest
    """
    from attnbench.cli import running

    show = running.Showing(strict=strict, as_json=json)
    if resume is not None:
        mistake = "{flag}: --resume goes on with a run as it was started; leave {flag} out"
        refuse(context, mistake, besides=_GO_WITH_RESUME)
        running.resume(resume, out, retry_failed=retry_failed, show=show)
    elif dry_run:
        running.foretell(request, as_json=json)
    elif retry_failed:
        raise UsageError("--retry-failed: it goes with --resume RUN; name the run")
    else:
        running.start(replace(request, command=tuple(sys.argv[1:])), out, show=show)
