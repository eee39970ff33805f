"""`attnbench run`: plan, measure, store, and print the table."""

import sys
from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

import typer

from attnbench.cli.options import RESULTS, Json, Out
from attnbench.errors import UsageError, suggestion

Named = TypeVar("Named", bound=str)
Number = TypeVar("Number", int, float)
SWEEP, MEASURE, HOW, WHERE = "What to sweep", "What to measure", "How", "Where"


def _flag(panel: str, meaning: str, metavar: str | None = None) -> Any:
    return typer.Option(help=meaning, rich_help_panel=panel, metavar=metavar, show_default=False)


def run(
    suite: Annotated[
        str, _flag(SWEEP, "A suite's name or TOML file; flags replace its axes.", "NAME|FILE")
    ] = "standard",
    variants: Annotated[
        str | None, _flag(SWEEP, "vanilla,reformer:rounds=4,bucket=64,./mine.py:Mine", "NAME,...")
    ] = None,
    seq: Annotated[str | None, _flag(SWEEP, "Sequence lengths: 512..16384, 512..4k:+512, 1k,4k.", "RANGE")] = None,
    seq_k: Annotated[str | None, _flag(SWEEP, "Key lengths, where they differ from --seq.", "RANGE")] = None,
    heads: Annotated[str | None, _flag(SWEEP, "Query heads.", "RANGE")] = None,
    kv_heads: Annotated[str | None, _flag(SWEEP, "Key and value heads (grouped heads).", "RANGE")] = None,
    head_dim: Annotated[str | None, _flag(SWEEP, "Features of a head.", "RANGE")] = None,
    width: Annotated[str | None, _flag(SWEEP, "Features of all heads: head dim = width / heads.", "RANGE")] = None,
    batch: Annotated[str | None, _flag(SWEEP, "Sequences in a batch.", "RANGE")] = None,
    tokens: Annotated[str | None, _flag(SWEEP, "Tokens in a batch: batch = tokens / seq.", "RANGE")] = None,
    dtype: Annotated[str | None, _flag(SWEEP, "float32, bfloat16, float16, float64.", "NAME,...")] = None,
    causal: Annotated[
        bool | None,
        typer.Option(
            "--causal/--no-causal", help="A query sees no later key.", rich_help_panel=SWEEP, show_default=False
        ),
    ] = None,
    window: Annotated[str | None, _flag(SWEEP, "Keys a query sees, its own included.", "RANGE")] = None,
    passes: Annotated[str | None, _flag(SWEEP, "forward, backward, forward-backward, decode.", "NAME,...")] = None,
    level: Annotated[str, _flag(SWEEP, "core; layer comes later.", "NAME")] = "core",
    inputs: Annotated[str, _flag(SWEEP, "normal; clustered and outliers come later.", "NAME")] = "normal",
    metrics: Annotated[str | None, _flag(MEASURE, "latency, memory, agreement, accuracy.", "NAME,...")] = None,
    tasks: Annotated[str | None, _flag(MEASURE, "mqar:preset=paper,layers=2", "NAME,...")] = None,
    refine: Annotated[bool, _flag(MEASURE, "Measure crossovers; comes later.")] = False,
    fit: Annotated[bool, _flag(MEASURE, "Find the longest context; comes later.")] = False,
    device: Annotated[str, _flag(HOW, "auto, cpu, cuda, cuda:1 or mps.", "NAME")] = "auto",
    devices: Annotated[str | None, _flag(HOW, "Several devices; comes later.", "NAME,...")] = None,
    threads: Annotated[int | None, _flag(HOW, "Threads of the CPU; default: every core.", "N")] = None,
    profile: Annotated[str, _flag(HOW, "quick (1 round), default (5) or rigorous (10).", "NAME")] = "default",
    rounds: Annotated[int | None, _flag(HOW, "Rounds, each in processes of its own.", "N")] = None,
    timeout: Annotated[float | None, _flag(HOW, "Seconds a job may go without a sign of life.", "S")] = None,
    time_budget: Annotated[str | None, _flag(HOW, "Bound the whole run; comes later.", "T")] = None,
    seed: Annotated[int, _flag(HOW, "Of inputs, weights and order.", "N")] = 0,
    hot: Annotated[bool, _flag(HOW, "CUDA: leave the L2 as it is between samples.")] = False,
    allocator: Annotated[str, _flag(HOW, "C heap: default, or retained (never given back).", "NAME")] = "default",
    executor: Annotated[str, _flag(HOW, "local; ray and slurm come later.", "NAME")] = "local",
    ranks: Annotated[int | None, _flag(HOW, "Distributed kernels; comes later.", "N")] = None,
    out: Out = RESULTS,
    resume: Annotated[str | None, _flag(WHERE, "Go on with a run; no sweep options with it.", "RUN")] = None,
    retry_failed: Annotated[bool, _flag(WHERE, "With --resume: measure failed cases again.")] = False,
    strict: Annotated[bool, _flag(WHERE, "Exit with 1 where a case failed.")] = False,
    json: Json = False,
) -> None:
    """Measure mechanisms over sequence lengths and heads, store every sample, and print the table.

    Example: attnbench run --seq 512..16384 --variants vanilla,linear,flash
    """
    from attnbench.cli import running
    from attnbench.plan import PROFILES
    from attnbench.record import ALLOCATORS
    from attnbench.request import Request, cores
    from attnbench.suite import Sweep

    later = {
        "--level": level != "core",
        "--inputs": inputs != "normal",
        "--refine": refine,
        "--fit": fit,
        "--devices": devices is not None,
        "--time-budget": time_budget is not None,
        "--executor": executor != "local",
        "--ranks": ranks is not None,
    }
    for flag in (flag for flag, given in later.items() if given):
        raise UsageError(f"{flag}: this comes in a later version; leave it out")
    sweep = Sweep(
        variants=variants,
        seq=seq,
        seq_k=seq_k,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        width=width,
        batch=batch,
        tokens=tokens,
        dtype=dtype,
        causal=causal,
        window=window,
        passes=passes,
        metrics=metrics,
        tasks=tasks,
    )
    show = running.Showing(strict=strict, as_json=json)
    if resume is not None:
        if sweep != Sweep() or suite != "standard":
            raise UsageError("--resume: a run keeps the sweep it was started with; leave out --suite and what to sweep")
        running.go_on(resume, out, retry_failed=retry_failed, show=show)
        return
    if retry_failed:
        raise UsageError("--retry-failed: it goes with --resume RUN; name the run")
    request = Request(
        threads=_at_least_one(threads, "--threads") or cores(),
        suite=suite,
        sweep=sweep,
        device=device,
        profile=_one_of(profile, PROFILES, "--profile"),
        rounds=_at_least_one(rounds, "--rounds"),
        timeout_s=_at_least_one(timeout, "--timeout"),
        seed=seed,
        hot=hot,
        allocator=_one_of(allocator, ALLOCATORS, "--allocator"),
        command=tuple(sys.argv[1:]),
    )
    running.start(request, out, show=show)


def _one_of(value: str, known: Iterable[Named], flag: str) -> Named:
    for name in known:
        if name == value:
            return name
    raise UsageError(f"{flag}: {value!r} is not one of {', '.join(known)}; {suggestion(value, known)}")


def _at_least_one(value: Number | None, flag: str) -> Number | None:
    if value is not None and not value >= 1:
        raise UsageError(f"{flag}: {value} is less than 1; give 1 or more")
    return value
