"""Mechanisms at equal quality: the cheapest options of each that reach it, by stored trials, then timed together."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from attnbench import session
from attnbench.answers.further import further
from attnbench.answers.tune.search import TunedVariant, first_settings, tuned
from attnbench.contracts.case import Option
from attnbench.contracts.errors import UsageError, suggestion
from attnbench.contracts.metrics import PRIMARY, ProbeKind
from attnbench.contracts.ranges import parse_range
from attnbench.contracts.specs import Spec, parse_specs
from attnbench.execute.executor import Executor
from attnbench.planning.plan import Resolved, plan_run, resolve
from attnbench.planning.request import Request
from attnbench.planning.variants import Candidate, describe_variant
from attnbench.plugins.registry import find
from attnbench.report.reported import rows_of
from attnbench.session import Notify, quietly
from attnbench.store import Axis, Plan, Search, Searched, Store

Values = Mapping[str, str]


class Goal(Struct, frozen=True, kw_only=True):
    """The quality to reach: an error of at most `error`, or an accuracy of at least `accuracy` on the sweep's task.

    `values` replace, or add, the values that a variant's own `tunes` gives for an option, as text. Speed is compared
    with that of the variant `against`.
    """

    error: float | None = None
    accuracy: float | None = None
    values: dict[str, str] = {}
    against: str = "flash"

    @property
    def probe(self) -> ProbeKind:
        """The probe that measures the quality."""
        return "accuracy" if self.accuracy is not None else "agreement"

    @property
    def bound(self) -> float:
        """The error or accuracy to reach."""
        return (self.accuracy if self.accuracy is not None else self.error) or 0.0


class Answer(Struct, frozen=True, kw_only=True):
    """The result of a search: its run, and what was found of each variant."""

    run: str
    search: Search
    found: tuple[TunedVariant, ...]


def tune(request: Request, goal: Goal, out: Path, *, notify: Notify = quietly) -> Path:
    """Search for the cheapest options of the request's variants that reach a goal, and return the folder of the run.

    Raises UsageError before anything is written.
    """
    specs = parse_specs(request.sweep.variants or "", flag="tune")
    _check(request, goal, specs)
    (*searched, reference) = (*specs, *parse_specs(goal.against, flag="--against"))
    variants = ",".join(map(str, (*searched, reference)))
    asked = replace(request, sweep=replace(request.sweep, variants=variants, metrics=goal.probe))
    return session.start(asked, out, notify, planner=partial(_plan, specs=searched, goal=goal), further=further)


def answer(run: Path) -> Answer:
    """Return what a run of `tune` has found so far. Raises UsageError for a run that searched no options."""
    with Store.open(run, write=False) as store:
        search = store.plan.search
        if search is None:
            raise UsageError(f"tune: run {run.name} searched no options; name one that `attnbench tune` began")
        found = tuned(rows_of(store), search)
    return Answer(run=run.name, search=replace(search, timed=()), found=tuple(found))


def read_values(texts: Sequence[str]) -> dict[str, str]:
    """Parse `--option k=64..1024` flags as the values of each option. Raises UsageError."""
    values: dict[str, str] = {}
    for text in texts:
        name, equals, given = text.partition("=")
        if not (name.isidentifier() and equals and given):
            raise UsageError(f"--option: {text!r} is no option with values; write k=64..1024 or density=0.1,0.2")
        values[name] = given
    return values


def _check(request: Request, goal: Goal, specs: Sequence[Spec]) -> None:
    if (goal.error is None) == (goal.accuracy is None):
        raise UsageError("--match: say what quality is to be reached: --match ERROR, or --match-accuracy with --task")
    if (goal.accuracy is None) != (request.sweep.tasks is None):
        raise UsageError("--match-accuracy: it is that on a task; give it with --task NAME, and neither with --match")
    for flag, value in (("--match", goal.error), ("--match-accuracy", goal.accuracy)):
        if value is not None and not value >= 0:
            raise UsageError(f"{flag}: {value} is no quality; give 0 or more")
    if goal.against in {spec.name for spec in specs}:
        raise UsageError(f"--against: {goal.against!r} is one of those that are searched; name another")


def _plan(request: Request, executor: Executor, *, specs: Sequence[Spec], goal: Goal) -> Plan:
    """Return the plan of a search: the most expensive settings of each variant first, and the timings that end it."""
    resolved = resolve(request, executor)
    _check_one_workload(resolved)
    *candidates, reference = resolved.candidates
    if len(specs) != len(candidates):
        raise UsageError("tune: a variant is named twice; name each once")
    searched = [_searched(spec, one, goal.values, executor) for spec, one in zip(specs, candidates, strict=True)]
    _refuse_unknown(goal.values, searched)
    firsts = [
        [replace(one, options=options) for options in first_settings(each)]
        for one, each in zip(candidates, searched, strict=True)
    ]
    timed = (reference, *(settings[0] for settings in firsts))
    search = Search(
        metric=PRIMARY[goal.probe].name,
        bound=goal.bound,
        at_least=goal.accuracy is not None,
        reference=reference.name,
        reference_options=reference.options,
        variants=tuple(searched),
        timed=replace(resolved, candidates=timed, probes=("latency",)).jobs(),
    )
    trials = replace(resolved, candidates=(*(one for settings in firsts for one in settings), reference))
    return replace(plan_run(request, resolved, trials.jobs()), search=search)


def _check_one_workload(resolved: Resolved) -> None:
    if len({(case.shape, case.mask, case.passes) for case in resolved.cases}) != 1:
        raise UsageError("tune: quality is matched at one length and workload; name one value of each axis")
    if len(resolved.tasks) > 1:
        raise UsageError("--task: an accuracy is matched on one task; name one")


def _searched(spec: Spec, candidate: Candidate, values: Values, executor: Executor) -> Searched:
    """Return the axes to search of a variant: those that its `tunes` names less those given, and those of --option."""
    axes = [
        Axis(option=name, values=tuple(tune.values), monotone=tune.monotone)
        for name, tune in candidate.tunes.items()
        if name not in spec.options and name not in values
    ]
    for name, text in values.items():
        if name in candidate.options:
            own = candidate.tunes.get(name)
            typed = tuple(_typed(spec, name, each, executor) for each in _listed(text))
            axes.append(Axis(option=name, values=typed, monotone=own is not None and own.monotone))
    if not axes:
        raise UsageError(
            f"tune: {spec.name!r} has no option left that trades time for quality; add --option NAME=VALUES"
        )
    return Searched(variant=candidate.name, options=candidate.options, axes=tuple(axes))


def _listed(text: str) -> Iterator[str]:
    """Yield the values of ranges of whole numbers and of a list of anything."""
    for piece in text.split(","):
        if ".." in piece:
            yield from map(str, parse_range(piece, flag="--option"))
        else:
            yield piece.strip()


def _typed(spec: Spec, name: str, text: str, executor: Executor) -> Option:
    """Convert a value as typed to the option's own type, as its variant reads it."""
    entry = find(spec.name, "variants", flag="tune")
    description = describe_variant(executor, entry, {**spec.options, name: text})
    if description.mistake or description.failure:
        raise UsageError(f"--option: {name}={text}: {description.mistake or description.failure}")
    return description.options[name]


def _refuse_unknown(values: Values, searched: Sequence[Searched]) -> None:
    known = {name for each in searched for name in each.options}
    for name in values:
        if name not in known:
            raise UsageError(f"--option: no variant here has an option {name!r}; {suggestion(name, known)}")
