"""`attnbench tune`: the cheapest options that reach a quality, and the speed there."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from attnbench.cli import flags
from attnbench.cli.options import Json, Out
from attnbench.cli.streams import emit_json
from attnbench.contracts.errors import UsageError
from attnbench.store import RESULTS

if TYPE_CHECKING:
    from pathlib import Path


def tune(
    variants: Annotated[
        str | None, typer.Argument(metavar="VARIANT,...", help="What to tune; options given stay.", show_default=False)
    ] = None,
    match: flags.Match = None,
    match_accuracy: flags.MatchAccuracy = None,
    task: flags.Task = None,
    option: flags.OptionValues = None,
    against: flags.Against = "flash",
    seq: flags.OneSeq = "2048",
    heads: flags.Heads = None,
    kv_heads: flags.KvHeads = None,
    head_dim: flags.HeadDim = None,
    width: flags.Width = None,
    batch: flags.Batch = None,
    dtype: flags.Dtype = None,
    causal: flags.Causal = None,
    window: flags.Window = None,
    passes: flags.Passes = None,
    level: flags.Level = None,
    inputs: flags.Inputs = None,
    device: flags.Device = None,
    threads: flags.Threads = None,
    profile: flags.Profile = None,
    rounds: flags.Rounds = None,
    timeout: flags.Timeout = None,
    seed: flags.Seed = None,
    out: Out = RESULTS,
    resume: flags.Resume = None,
    json: Json = False,
) -> None:
    """Find the cheapest options that reach a quality, and the speed there: mechanisms at equal quality.

    Exits with 1 where no variant reaches it. The run is stored; --resume goes on with one, or shows it again.

    Examples:
      attnbench tune linformer,reformer --match 0.05 --seq 2048
      attnbench tune window --match 0.01 --option width=64..1024
      attnbench tune linformer --task mqar --match-accuracy 0.9
    """
    asked = locals()
    from attnbench import api
    from attnbench.answers.tune import tuning
    from attnbench.cli.live import display
    from attnbench.measure.processor import cores
    from attnbench.planning.request import Request

    if (resume is None) == (variants is None):
        raise UsageError("tune: name variants to begin with, or --resume RUN alone to go on; one of the two")
    if resume is not None:
        with display() as notify:
            run = api.resume(resume, out=out, notify=notify).path
        _conclude(run, as_json=json)
        return
    goal = tuning.Goal(error=match, accuracy=match_accuracy, values=tuning.read_values(option or ()), against=against)
    request = Request(
        threads=cores() if threads is None else threads,
        sweep=flags.one_workload(asked),
        device=device or "auto",
        profile=asked["profile"] or "default",
        rounds=rounds,
        timeout_s=timeout,
        seed=seed or 0,
        command=tuple(sys.argv[1:]),
    )
    with display() as notify:
        run = tuning.tune(request, goal, out, notify=notify)
    _conclude(run, as_json=json)


def _conclude(run: "Path", *, as_json: bool) -> None:
    from rich.console import Console

    from attnbench.answers.tune import tuning
    from attnbench.answers.tune.text import Report
    from attnbench.contracts.text import plain

    found = tuning.answer(run)
    if as_json:
        emit_json(found)
    else:
        Console(highlight=False).print(Report(found.found, found.search))
    print(plain(f"Results: {run}  (again: attnbench tune --resume {run.name})"), file=sys.stderr)
    if not any(each.best for each in found.found):
        raise typer.Exit(1)
