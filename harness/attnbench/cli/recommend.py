"""`attnbench recommend`: which variant for a workload, from stored runs; `--measure` fills what they lack."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec.structs import replace

from attnbench.cli.flags import Only
from attnbench.cli.options import MACHINE, NEEDS, WHERE, WORKLOAD, Json, Out, option, switch
from attnbench.cli.streams import emit_json
from attnbench.contracts.flags import MEASURE, SWEEP
from attnbench.planning.request import Request
from attnbench.store import RESULTS

if TYPE_CHECKING:
    from attnbench.answers.recommend.ranking import Recommendation


def recommend(
    *,
    seq: Annotated[str, option("Sequence length: 8192 or 8k.", "N", panel=SWEEP)],
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN", help="Runs to read, of any machine; default: all under --out.", show_default=False
        ),
    ] = None,
    request: Annotated[Request, Only(("seq_k", *WORKLOAD, "variants", *MACHINE))],
    memory: Annotated[
        str | None, option("Largest memory above the inputs: 24GiB, 512MiB, 24GB.", "SIZE", panel=NEEDS)
    ] = None,
    max_latency: Annotated[str | None, option("Longest time of a call: 50ms, 200us, 1.5s.", "T", panel=NEEDS)] = None,
    max_error: Annotated[float | None, option("Largest approximation error.", "X", panel=NEEDS)] = None,
    min_accuracy: Annotated[float | None, option("Lowest accuracy on the task.", "X", panel=NEEDS)] = None,
    task: Annotated[str | None, option("Task of --min-accuracy: mqar:preset=tiny", "NAME", panel=NEEDS)] = None,
    measure: Annotated[bool, switch("--measure", "Measure what is not known at this length.", panel=MEASURE)] = False,
    anywhere: Annotated[
        bool, switch("--anywhere", "Also read runs of other machines or versions.", panel=WHERE)
    ] = False,
    out: Out = RESULTS,
    json: Json = False,
) -> None:
    """Recommend a variant for a workload, with the evidence; exit with 1 if none is known to meet the needs.

    By default the workload has 8 heads of 64 features, batch 1, and is a forward pass at core level.

    Examples:
      attnbench recommend --seq 8192 --heads 16 --causal --memory 24GiB
      attnbench recommend --seq 8k --min-accuracy 0.9 --task mqar --measure
    """
    from attnbench.answers.recommend import advice
    from attnbench.cli.live import display

    needs = advice.read_needs(
        memory=memory, max_latency=max_latency, max_error=max_error, min_accuracy=min_accuracy, task=task
    )
    asked = replace(request, sweep=replace(request.sweep, seq=seq), command=tuple(sys.argv[1:]))
    sources = advice.Sources(out=out, runs=tuple(runs or ()), anywhere=anywhere)
    with display() as notify:
        answer = advice.recommend(asked, needs, sources=sources, measure=measure, notify=notify)
    _show(answer, as_json=json)
    if not answer.answers:
        raise typer.Exit(1)


def _show(answer: "Recommendation", *, as_json: bool) -> None:
    from rich.console import Console

    from attnbench.answers.recommend.text import printable

    if as_json:
        emit_json(answer)
    else:
        Console(highlight=False).print(printable(answer))
