"""A paper's table repeated: the sweep to run for it, and its figures with those of a run beside them."""

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from msgspec import Struct

from attnbench.answers.replay import paper
from attnbench.answers.replay.beside import Replay, replay, task_of
from attnbench.answers.replay.paper import Paper, Published
from attnbench.contracts.errors import UsageError, suggestion
from attnbench.contracts.record import Environment
from attnbench.contracts.specs import Spec, parse_specs
from attnbench.contracts.suite import Range, Sweep
from attnbench.execute.local import LocalExecutor
from attnbench.planning.tasks import describe_task
from attnbench.planning.variants import Role
from attnbench.plugins import registry
from attnbench.report.reported import rows_of
from attnbench.store import Store


class InstalledPaper(Struct, frozen=True, kw_only=True):
    """An installed paper with its published figures."""

    name: str
    paper: Paper
    published: tuple[Published, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks of the paper's figures."""
        return tuple(dict.fromkeys(figure.task for figure in self.paper.figures if figure.task))


def find_paper(name: str) -> InstalledPaper:
    """Return an installed paper by its name. Raises UsageError."""
    papers = registry.entries("papers")
    if name not in papers:
        raise UsageError(f"replay: no paper is called {name!r}; {suggestion(name, papers)}")
    read, published = paper.read_paper(registry.resource(registry.find(name, "papers", flag="replay")))
    return InstalledPaper(name=name, paper=read, published=published)


def absent(installed: InstalledPaper) -> dict[str, str]:
    """Return the tasks of a paper that are not installed, as its file names them, each with the reason."""
    tasks = registry.entries("tasks")
    names = {text: _with_preset(text, installed.paper, "").name for text in installed.tasks}
    return {text: f"no task is called {name!r} here" for text, name in names.items() if name not in tasks}


def lacking(installed: InstalledPaper, preset: str) -> dict[str, str]:
    """Return the tasks of a paper that cannot be trained here, each with the reason; a child tries their options."""
    reasons = absent(installed)
    asked = {text: _with_preset(text, installed.paper, preset) for text in installed.tasks if text not in reasons}
    if asked:
        with closing(LocalExecutor()) as executor:
            for text, spec in asked.items():
                entry = registry.find(spec.name, "tasks", flag="replay")
                description = describe_task(executor, entry, spec.options)
                reasons |= {text: why} if (why := description.mistake or description.failure) else {}
    return reasons


def sweep_of(installed: InstalledPaper, preset: str, seq: Range, *, without: Iterable[str]) -> Sweep:
    """Return the sweep to run for a paper, over its suite. Raises UsageError where none of its tasks is left."""
    figures = installed.paper.figures
    absent = set(without)
    tasks = [str(_with_preset(text, installed.paper, preset)) for text in installed.tasks if text not in absent]
    if seq is not None and not any(figure.seq for figure in figures):
        raise UsageError(f"--seq: the lengths of {installed.name} are those of its tasks; leave --seq out")
    if installed.tasks and not tasks:
        raise UsageError(f"replay: no task of {installed.name} can be trained here; see attnbench list tasks")
    named = installed.paper.mechanisms
    first = [named[installed.paper.baseline]] if installed.paper.baseline else []
    variants = dict.fromkeys(
        variant
        for each in (*first, *named.values())
        if each.variant
        for variant in (each.variant, *each.by_task.values())
    )
    passes = dict.fromkeys(figure.passes for figure in figures if figure.passes)
    return Sweep(
        variants=",".join(variants),
        seq=seq,
        passes=",".join(passes) or None,
        metrics=",".join(dict.fromkeys(figure.metric for figure in figures)),
        tasks=",".join(tasks) or None,
        shapes=installed.paper.shapes or None,
        scale=False,  # a mechanism's options are the paper's, at every length
    )


def roles_of(installed: InstalledPaper) -> dict[str, Role]:
    """Return what each variant is measured for, where a mechanism has another variant for a task."""
    tasks = {text: _with_preset(text, installed.paper, "").name for text in installed.tasks}
    roles: dict[str, Role] = {}
    for one in installed.paper.mechanisms.values():
        if one.by_task:
            others = tuple(name for text, name in tasks.items() if text not in one.by_task)
            roles |= {variant: Role(tasks=(), costs=False) for variant in one.by_task.values()}
            roles[one.variant] = Role(tasks=others)
            for text, variant in one.by_task.items():
                roles[variant] = Role(tasks=(*(roles[variant].tasks or ()), tasks[text]), costs=False)
    return {str(parse_specs(variant, flag="replay")[0]): role for variant, role in roles.items()}


def beside(installed: InstalledPaper, run: Path, *, without: dict[str, str]) -> Replay:
    """Return a paper's figures with those of a run beside them; `without` has the reason for each task left out."""
    with Store.open(run, write=False) as store:
        (*_, environment) = store.environments().values()
        return replay(
            installed.paper, installed.published, rows_of(store), machine=_machine(environment), lacking=without
        )


def _with_preset(text: str, of: Paper, preset: str) -> Spec:
    figure = next(figure for figure in of.figures if figure.task == text)
    spec = task_of(figure)
    return Spec(name=spec.name, options={"preset": figure.presets.get(preset, preset)} | spec.options)


def _machine(environment: Environment) -> dict[str, str]:
    """Return the conditions of a machine that a paper may state."""
    return {"device": environment.device_name, "torch": environment.torch, "threads": str(environment.threads)}
