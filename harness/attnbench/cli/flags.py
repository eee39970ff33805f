"""The flags of `attnbench run`: one type each, with its meaning. A flag that was not given is None or False."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from attnbench.contracts.suite import Sweep

SWEEP, MEASURE, HOW, WHERE = "What to sweep", "What to measure", "How", "Where"
NEEDS = "What must hold"


def sweep_of(asked: Mapping[str, Any]) -> "Sweep":
    """Give the sweep that flags ask for, each by its name."""
    import msgspec

    from attnbench.contracts.suite import Sweep

    return msgspec.convert({name: asked.get(name) for name in Sweep.__struct_fields__}, Sweep)


def one_workload(asked: Mapping[str, Any]) -> "Sweep":
    """Give the one workload that an answer is for: what flags leave out is the usual."""
    from attnbench.contracts.suite import USUAL, overlay

    given = {**asked, "tasks": asked.get("task")}
    return overlay(USUAL, sweep_of(given))


def _flag(panel: str, meaning: str, metavar: str) -> Any:
    return typer.Option(help=meaning, rich_help_panel=panel, metavar=metavar, show_default=False)


def _switch(name: str, panel: str, meaning: str) -> Any:
    return typer.Option(name, help=meaning, rich_help_panel=panel, metavar="", show_default=False)


def _later(name: str) -> Any:
    """Know a flag whose time has not come, so that it is refused by name; help does not show it."""
    return typer.Option(name, hidden=True)


Suite = Annotated[str | None, _flag(SWEEP, "A suite or its TOML file, else standard; flags replace its axes.", "NAME")]
Variants = Annotated[
    str | None, _flag(SWEEP, "Names with options: vanilla, reformer:rounds=4,bucket=64; or all", "NAME,...")
]
Seq = Annotated[str | None, _flag(SWEEP, "Sequence lengths: 512..16384  512..4k:+512  1k,4k", "RANGE")]
SeqK = Annotated[str | None, _flag(SWEEP, "Key lengths, where they differ from --seq.", "RANGE")]
Heads = Annotated[str | None, _flag(SWEEP, "Query heads.", "RANGE")]
KvHeads = Annotated[str | None, _flag(SWEEP, "Key and value heads (grouped heads).", "RANGE")]
HeadDim = Annotated[str | None, _flag(SWEEP, "Features of a head.", "RANGE")]
Width = Annotated[str | None, _flag(SWEEP, "Features of all heads: heads x head dim.", "RANGE")]
Batch = Annotated[str | None, _flag(SWEEP, "Sequences in a batch.", "RANGE")]
Tokens = Annotated[str | None, _flag(SWEEP, "Tokens in a batch: batch = tokens / seq.", "RANGE")]
Shapes = Annotated[str | None, _flag(SWEEP, "Of the shapes that a suite lists (models), only these.", "NAME,...")]
Dtype = Annotated[str | None, _flag(SWEEP, "float32, bfloat16, float16, float64.", "NAME,...")]
Causal = Annotated[
    bool | None,
    typer.Option(
        "--causal/--no-causal",
        help="A query sees no later key.",
        rich_help_panel=SWEEP,
        metavar="",
        show_default=False,
    ),
]
Window = Annotated[str | None, _flag(SWEEP, "Keys a query sees, its own included.", "RANGE")]
Passes = Annotated[str | None, _flag(SWEEP, "forward, backward, forward-backward, decode (one token).", "NAME,...")]
Level = Annotated[str | None, _flag(SWEEP, "core (the mechanism alone), layer (between projections).", "NAME,...")]
Inputs = Annotated[str | None, _flag(SWEEP, "normal, clustered (in groups), outliers (large features).", "NAME,...")]
Metrics = Annotated[str | None, _flag(MEASURE, "latency, memory, agreement, accuracy, energy.", "NAME,...")]
Tasks = Annotated[str | None, _flag(MEASURE, "For accuracy: mqar:preset=paper,layers=2", "NAME,...")]
Refine = Annotated[bool, _switch("--refine", MEASURE, "Measure between lengths where variants change places.")]
Fit = Annotated[bool, _switch("--fit", MEASURE, "Find the longest context that fits, up to the end of --seq.")]
Memory = Annotated[str | None, _flag(HOW, "A job may take so much: 24GiB; else what is free.", "SIZE")]
MostMemory = Annotated[str | None, _flag(NEEDS, "Most memory above the inputs: 24GiB, 512MiB, 24GB or bytes.", "SIZE")]
MaxLatency = Annotated[str | None, _flag(NEEDS, "Longest time of a call: 50ms, 200us, 1.5s.", "T")]
MaxError = Annotated[float | None, _flag(NEEDS, "Largest approximation error.", "X")]
MinAccuracy = Annotated[float | None, _flag(NEEDS, "Least accuracy on the task.", "X")]
Task = Annotated[str | None, _flag(NEEDS, "The task that accuracy is asked on: mqar:preset=tiny", "NAME")]
OneSeq = Annotated[str, _flag(SWEEP, "Sequence length: 8192 or 8k.", "N")]
Match = Annotated[float | None, _flag(NEEDS, "Largest approximation error that is good enough.", "X")]
MatchAccuracy = Annotated[float | None, _flag(NEEDS, "Least accuracy on --task that is good enough.", "X")]
OptionValues = Annotated[
    list[str] | None, _flag(SWEEP, "Values of an option instead of its own: k=64..1024", "NAME=VALUES")
]
Against = Annotated[str, typer.Option(help="What speed is compared with.", metavar="NAME", rich_help_panel=MEASURE)]
Anywhere = Annotated[bool, _switch("--anywhere", WHERE, "Also ask runs of other machines or versions.")]
Measure = Annotated[bool, _switch("--measure", MEASURE, "Measure now what is not known at this length.")]
Device = Annotated[str | None, _flag(HOW, "auto, cpu, cuda, cuda:1 or mps.", "NAME")]
Devices = Annotated[str | None, _later("--devices")]
Threads = Annotated[int | None, _flag(HOW, "Threads of the CPU; default: every core.", "N")]
Profile = Annotated[str | None, _flag(HOW, "quick (1 round), default (5) or rigorous (10).", "NAME")]
Rounds = Annotated[int | None, _flag(HOW, "Rounds, each in processes of its own.", "N")]
Timeout = Annotated[float | None, _flag(HOW, "Seconds a job may go without a sign of life.", "S")]
TimeBudget = Annotated[str | None, _flag(HOW, "In all, 10m or 1h30m: further rounds go to who needs them most.", "T")]
NoPrune = Annotated[bool, _switch("--no-prune", HOW, "Also measure what is longer than a case that ran out.")]
Seed = Annotated[int | None, _flag(HOW, "Of inputs, weights and order; default: 0.", "N")]
Hot = Annotated[bool, _switch("--hot", HOW, "CUDA: leave the L2 as it is between samples.")]
Allocator = Annotated[str | None, _flag(HOW, "C heap: default, or retained (never given back).", "NAME")]
Executor = Annotated[str | None, _later("--executor")]
Ranks = Annotated[int | None, _later("--ranks")]
Resume = Annotated[str | None, _flag(WHERE, "Go on with a run, as it was asked for.", "RUN")]
RetryFailed = Annotated[bool, _switch("--retry-failed", WHERE, "With --resume: measure failed cases again.")]
Checkpoint = Annotated[str | None, _flag(SWEEP, "A run whose trained models are looked at instead.", "RUN")]
TrainedTask = Annotated[str | None, _flag(SWEEP, "Which task, where the run trained on several.", "NAME")]
ShownHeads = Annotated[str, _flag(MEASURE, "Heads, from 0: 0,3 or all; default: 0.", "N,...")]
ShownLayers = Annotated[str | None, _flag(MEASURE, "Layers of trained models, likewise; default: all.", "N,...")]
LogScale = Annotated[bool, _switch("--log", MEASURE, "Colours by the logarithm of a weight.")]
Pictures = Annotated[
    list[Path] | None,
    typer.Option(
        "-o",
        "--output",
        help="PNG, SVG, PDF or NPZ (arrays) by its ending; may be given several times. Default: a PNG here.",
        rich_help_panel=WHERE,
        metavar="FILE",
        show_default=False,
    ),
]
Strict = Annotated[bool, _switch("--strict", WHERE, "Exit with 1 where a case failed.")]
