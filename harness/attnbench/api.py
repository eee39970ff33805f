"""The public functions: build a variant, run a sweep, resume a run, compare two. The command line calls them."""

import operator
from collections.abc import Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, TypeVar, Unpack

import msgspec

from attnbench import session
from attnbench.analysis.comparability import mismatches
from attnbench.analysis.compare import Comparisons
from attnbench.analysis.compare import compare as compare_rows
from attnbench.analysis.match import TwoSpecs
from attnbench.analysis.rows import Row
from attnbench.answers.fit.search import first_lengths
from attnbench.answers.further import further
from attnbench.contracts import variant
from attnbench.contracts.case import Case, Dtype, Mask, Shape
from attnbench.contracts.errors import UsageError, suggestion
from attnbench.contracts.record import Allocator, Profile
from attnbench.contracts.specs import parse_specs
from attnbench.contracts.suite import Sweep
from attnbench.execute.local import LocalExecutor
from attnbench.planning.plan import prepare
from attnbench.planning.request import Request
from attnbench.plugins import registry
from attnbench.plugins.checked import checked
from attnbench.report.notebook import ShownComparisons
from attnbench.runs import Run
from attnbench.session import Notify, quietly
from attnbench.store import RESULTS, Plan, find_run

Words = str | Iterable[str] | None
Sizes = str | int | Iterable[int] | None
S = TypeVar("S", bound=msgspec.Struct)
_ARGUMENTS = {"seq_q": "seq"}  # fields with another name than the argument that gives them


def build(
    spec: str,
    *,
    seq: int,
    heads: int,
    head_dim: int,
    seq_k: int | None = None,
    kv_heads: int | None = None,
    batch: int = 1,
    causal: bool = False,
    window: int | None = None,
    dtype: Dtype = "float32",
    device: str = "cpu",
    seed: int = 0,
) -> variant.Attention:
    """Build a variant, ready to use: out_BHTD = attention(q_BHTD, k_BGSD, v_BGSD).

    `spec` is a name with options as on the command line: "reformer:rounds=4,bucket=64", "./mine.py:Mine". A call with
    tensors of other sizes raises UsageError; the batch may be of any size.
    Raises Unsupported with the reason where the variant does not serve the case, UsageError for a wrong argument.
    """
    wanted, *others = parse_specs(spec, flag="build")
    if others:
        raise UsageError(f"build: {spec!r} names several variants; build one at a time")
    plugin = registry.load(registry.find(wanted.name, "variants", flag="build").target)
    try:
        options = msgspec.structs.asdict(variant.complete_options(plugin, wanted.options))
    except msgspec.ValidationError as error:
        raise UsageError(f"build: {wanted}: {error}") from error
    kv_heads, seq_k = (heads if kv_heads is None else kv_heads), (seq if seq_k is None else seq_k)
    shape = Shape(batch=batch, heads=heads, kv_heads=kv_heads, seq_q=seq, seq_k=seq_k, head_dim=head_dim)
    mask = Mask(causal=causal, window=window)
    case = Case(variant=wanted.name, options=options, shape=shape, mask=mask, dtype=dtype, device=device, seed=seed)
    case = _valid(case, "build")
    return checked(variant.build(plugin, case), case)


class Flags(TypedDict, total=False):
    """The arguments of `run`: each is the flag of its name; None is the same as leaving it out."""

    suite: str
    variants: Words
    seq: Sizes
    seq_k: Sizes
    heads: Sizes
    kv_heads: Sizes
    head_dim: Sizes
    width: Sizes
    batch: Sizes
    tokens: Sizes
    shapes: Words
    dtype: Words
    causal: bool | None
    window: Sizes
    passes: Words
    level: Words
    inputs: Words
    metrics: Words
    tasks: Words
    refine: bool
    fit: bool
    device: str
    threads: int | None
    profile: Profile
    rounds: int | None
    timeout_s: float | None
    time_budget: str | None
    memory: str | int | None
    prune: bool
    seed: int
    hot: bool
    allocator: Allocator


def run(*, out: str | Path = RESULTS, notify: Notify = quietly, **flags: Unpack[Flags]) -> Run:
    """Measure a sweep, as `attnbench run` does, and return the run; each argument is the flag of its name.

    Ranges and names may be text as on the command line, or lists. Raises UsageError for what the command line would
    refuse. `notify` is called with every notice of the session.
    """
    axes: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    settings = {name: axes.pop(name) for name in Request.__struct_fields__ if name in axes}
    texts: dict[str, Any] = {name: each if isinstance(each, bool) else _text(each) for name, each in axes.items()}
    if "memory" in settings:
        settings["memory"] = str(settings["memory"])
    request = Request(sweep=Sweep(**texts), command=("attnbench.run",), **settings)
    return measure(_valid(request, "run"), Path(out), notify)


def plan(request: Request) -> Plan:
    """Return the plan that `measure` would begin with, its jobs in order; write nothing. Raises UsageError."""
    with closing(LocalExecutor(slots=request.threads)) as executor:
        return prepare(request, executor, narrow=first_lengths)


def measure(request: Request, out: Path, notify: Notify) -> Run:
    """Measure a request in a new run under `out`, with the searches that it asks for, and return the run."""
    planner = partial(prepare, narrow=first_lengths)
    return Run(session.start(request, out, notify, planner=planner, further=further))


def resume(
    run: str | Path | Run, *, retry_failed: bool = False, out: str | Path = RESULTS, notify: Notify = quietly
) -> Run:
    """Measure what a stored run still lacks, as `attnbench run --resume` does, and return it.

    With `retry_failed`, repeat what failed. Raises UsageError where the machine or its software has changed.
    """
    path = _run(run, out).path
    return Run(session.go_on(path, notify, retry_failed=retry_failed, further=further))


def compare(
    base: str | Path | Run,
    new: str | Path | Run | None = None,
    *,
    variants: Words = None,
    metrics: Words = None,
    force: bool = False,
    out: str | Path = RESULTS,
) -> Comparisons:
    """Compare two runs case by case, or two variants ("old,new") of one run or of two, with a verdict for each pair.

    Runs are given as objects, paths or ids under `out`. Without `metrics` every probe's primary one is compared. Raises
    UsageError where the runs were not measured alike, naming the differences, unless `force`; see `analysis.compare`.
    """
    first = _run(base, out)
    second = first if new is None else _run(new, out)
    specs = _two(variants)
    same = first.path.resolve() == second.path.resolve()
    if same and specs is None:
        raise UsageError("compare: this is one run; name a second one, or two of its variants with --variants OLD,NEW")
    differing = [] if same else mismatches(first.circumstances(), second.circumstances())
    if differing and not force:
        raise UsageError(
            f"compare: the runs differ in {', '.join(map(str, differing))}, and so would their figures; "
            "--force compares them all the same"
        )
    base_rows = first.rows()
    new_rows = base_rows if same else second.rows()
    comparisons = compare_rows(
        base_rows,
        new_rows,
        metrics=_known_metrics(metrics, [*base_rows, *new_rows]),
        variants=specs,
        ignoring=[each.name for each in differing],
    )
    fields = msgspec.structs.asdict(comparisons) | {"differs": tuple(map(str, differing))}
    return ShownComparisons(**fields)


def _valid(given: S, function: str) -> S:
    """Return a struct whose fields have the types that they are declared with. Raises UsageError naming the argument.

    Structs are validated where they are decoded, not where they are constructed.
    """
    try:
        return msgspec.convert(msgspec.to_builtins(given, enc_hook=operator.index), type(given))  # numpy's numbers too
    except (msgspec.ValidationError, TypeError) as error:
        reason, _, path = str(error).partition(" - at `$.")
        name = path.rstrip("`").rpartition(".")[2]
        raise UsageError(f"{function}: {_ARGUMENTS.get(name, name)}: {reason}".replace(": : ", ": ")) from error


def _run(named: str | Path | Run, out: str | Path) -> Run:
    return named if isinstance(named, Run) else Run(find_run(str(named), Path(out)))


def _two(variants: Words) -> TwoSpecs | None:
    text = _text(variants)
    if text is None:
        return None
    match parse_specs(text, flag="--variants"):
        case (old, new):
            return old, new
        case specs:
            raise UsageError(f"--variants: {text!r} names {len(specs)}; name two, as OLD,NEW")


def _known_metrics(metrics: Words, rows: Iterable[Row]) -> list[str] | None:
    text = _text(metrics)
    if text is None:
        return None
    known = {row.metric for row in rows}
    for name in text.split(","):
        if name not in known:
            raise UsageError(f"--metric: no run here has {name!r}; {suggestion(name, known)}")
    return text.split(",")


def _text(value: Words | Sizes) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return ",".join(map(str, value)) if isinstance(value, Iterable) else str(value)
