"""`attnbench run`: plan, measure, store, and print the table."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attnbench.cli import flags
from attnbench.cli.options import Json, Out
from attnbench.contracts.errors import UsageError
from attnbench.store import RESULTS

if TYPE_CHECKING:
    from attnbench.planning.request import Request

Asked = Mapping[str, Any]

# What there is already of a flag whose other values come later.
_NOW = {"executor": "local"}
_LATER = (*_NOW, "devices", "ranks")
_HOW = (
    *("device", "threads", "profile", "rounds", "timeout", "time_budget", "no_prune", "refine"),
    *("fit", "memory", "seed", "hot", "allocator"),
)


def run(
    suite: flags.Suite = None,
    variants: flags.Variants = None,
    seq: flags.Seq = None,
    seq_k: flags.SeqK = None,
    heads: flags.Heads = None,
    kv_heads: flags.KvHeads = None,
    head_dim: flags.HeadDim = None,
    width: flags.Width = None,
    batch: flags.Batch = None,
    tokens: flags.Tokens = None,
    shapes: flags.Shapes = None,
    dtype: flags.Dtype = None,
    causal: flags.Causal = None,
    window: flags.Window = None,
    passes: flags.Passes = None,
    level: flags.Level = None,
    inputs: flags.Inputs = None,
    metrics: flags.Metrics = None,
    tasks: flags.Tasks = None,
    refine: flags.Refine = False,
    fit: flags.Fit = False,
    device: flags.Device = None,
    devices: flags.Devices = None,
    threads: flags.Threads = None,
    profile: flags.Profile = None,
    rounds: flags.Rounds = None,
    timeout: flags.Timeout = None,
    time_budget: flags.TimeBudget = None,
    memory: flags.Memory = None,
    no_prune: flags.NoPrune = False,
    seed: flags.Seed = None,
    hot: flags.Hot = False,
    allocator: flags.Allocator = None,
    executor: flags.Executor = None,
    ranks: flags.Ranks = None,
    out: Out = RESULTS,
    resume: flags.Resume = None,
    retry_failed: flags.RetryFailed = False,
    strict: flags.Strict = False,
    json: Json = False,
) -> None:
    """Measure mechanisms over sequence lengths and heads, store every sample, and print the table.

    Examples:
      attnbench run --seq 512..16384
      attnbench run --variants vanilla,linformer:k=128,./mine.py:Mine
      attnbench run --resume latest
    """
    _carry_out(locals())


def _carry_out(asked: Asked) -> None:
    """Start a run or go on with one, as the flags of `run` ask, each by its name."""
    from attnbench.cli import running

    for flag in (_flag(name) for name in _LATER if _given(asked[name]) and asked[name] != _NOW.get(name)):
        raise UsageError(f"{flag}: this comes in a later version; leave it out")
    show = running.Showing(strict=asked["strict"], as_json=asked["json"])
    if asked["resume"] is not None:
        _refuse_beside_resume(asked)
        running.go_on(asked["resume"], asked["out"], retry_failed=asked["retry_failed"], show=show)
    elif asked["retry_failed"]:
        raise UsageError("--retry-failed: it goes with --resume RUN; name the run")
    else:
        running.start(_request(asked), asked["out"], show=show)


def _refuse_beside_resume(asked: Asked) -> None:
    from attnbench.contracts.suite import Sweep

    for name in ("suite", *Sweep.__struct_fields__, *_HOW):
        if _given(asked[name]) or (name == "causal" and asked[name] is False):
            raise UsageError(f"{_flag(name)}: --resume goes on with a run as it was started; leave {_flag(name)} out")


def _request(asked: Asked) -> "Request":
    from attnbench.measure.processor import cores
    from attnbench.planning.request import Request

    return Request(
        threads=cores() if asked["threads"] is None else asked["threads"],
        suite=asked["suite"] or "standard",
        sweep=flags.sweep_of(asked),
        device=asked["device"] or "auto",
        profile=asked["profile"] or "default",
        rounds=asked["rounds"],
        timeout_s=asked["timeout"],
        seed=asked["seed"] or 0,
        hot=asked["hot"],
        allocator=asked["allocator"] or "default",
        prune=not asked["no_prune"],
        time_budget=asked["time_budget"],
        refine=asked["refine"],
        fit=asked["fit"],
        memory=asked["memory"],
        command=tuple(sys.argv[1:]),
    )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _given(value: object) -> bool:
    return value is not None and value is not False
