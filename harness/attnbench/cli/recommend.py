"""`attnbench recommend`: which variant for a workload, from stored runs; `--measure` fills what they lack."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from attnbench.cli import flags
from attnbench.cli.options import Json, Out
from attnbench.cli.streams import emit_json
from attnbench.store import RESULTS

if TYPE_CHECKING:
    from attnbench.answers.recommend.ranking import Recommendation


def recommend(
    seq: flags.OneSeq,
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN", help="Runs to ask, of any machine; else all under --out.", show_default=False),
    ] = None,
    seq_k: flags.SeqK = None,
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
    memory: flags.MostMemory = None,
    max_latency: flags.MaxLatency = None,
    max_error: flags.MaxError = None,
    min_accuracy: flags.MinAccuracy = None,
    task: flags.Task = None,
    variants: flags.Variants = None,
    anywhere: flags.Anywhere = False,
    measure: flags.Measure = False,
    device: flags.Device = None,
    threads: flags.Threads = None,
    profile: flags.Profile = None,
    out: Out = RESULTS,
    json: Json = False,
) -> None:
    """Say which variant to take for a workload, and on what that rests; exit with 1 where none is known to do.

    Examples:
      attnbench recommend --seq 8192 --heads 16 --causal --memory 24GiB
      attnbench recommend --seq 8k --min-accuracy 0.9 --task mqar --measure
    """
    asked = locals()
    from attnbench.answers.recommend import advice
    from attnbench.cli.live import display
    from attnbench.measure.processor import cores
    from attnbench.planning.request import Request

    needs = advice.read_needs(
        memory=memory, max_latency=max_latency, max_error=max_error, min_accuracy=min_accuracy, task=task
    )
    request = Request(
        sweep=flags.sweep_of(asked),
        device=device or "auto",
        threads=cores() if threads is None else threads,
        profile=asked["profile"] or "default",
        command=tuple(sys.argv[1:]),
    )
    sources = advice.Sources(out=out, runs=tuple(runs or ()), anywhere=anywhere)
    with display() as notify:
        found = advice.recommend(request, needs, sources=sources, measure=measure, notify=notify)
    _show(found, as_json=json)
    if not found.answers:
        raise typer.Exit(1)


def _show(found: "Recommendation", *, as_json: bool) -> None:
    from rich.console import Console

    from attnbench.answers.recommend.text import Report

    if as_json:
        emit_json(found)
    else:
        Console(highlight=False).print(Report(found))
