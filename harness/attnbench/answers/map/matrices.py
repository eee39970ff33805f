"""Effective attention matrices of variants, each read in a child: on inputs that are drawn, or in trained models."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from attnbench.analysis.match import has_options
from attnbench.contracts.case import Case, Option
from attnbench.contracts.errors import UsageError, suggestion
from attnbench.contracts.record import Job, Origin
from attnbench.contracts.specs import Spec
from attnbench.contracts.suite import Sweep
from attnbench.execute.executor import Executor, NoAnswer
from attnbench.execute.messages import Reading, ReadMatrices, ReadTrained
from attnbench.planning.inputs import path_of, swept_cases
from attnbench.planning.variants import candidate
from attnbench.store import Store, checkpoint_path

Matrices = NDArray[np.float32]  # [N, T, S] of N heads, T queries, S keys

FLAG = "VARIANT"
_MOST_NUMBERS = 2**27
_NONE = np.zeros((1, 0, 0), dtype=np.float32)


class Map(Struct, frozen=True, kw_only=True, eq=False):
    """A variant's matrices and exact attention's on the same queries and keys, in the order of `reading.heads`.

    `visible` is what the mask leaves of each. All are empty where the reading has a reason instead.
    """

    name: str  # with the options as typed
    variant: str
    options: dict[str, Option]
    origin: str
    reading: Reading
    matrices: Matrices
    exact: Matrices
    visible: NDArray[np.bool_]  # [T, S]


class Selection(Struct, frozen=True, kw_only=True):
    """The heads and layers to read; an empty tuple means all."""

    heads: tuple[int, ...] = (0,)
    layers: tuple[int, ...] = ()


def one_case(sweep: Sweep, *, seed: int) -> tuple[Case, str]:
    """Return the case that matrices are read for, on the CPU and without a variant, and the file of captured inputs.

    Raises UsageError.
    """
    swept, captures = swept_cases(sweep)
    inputs = list(dict.fromkeys(case.inputs for case in swept))
    if len(inputs) > 1:
        raise UsageError(f"--inputs: a map is of one kind of inputs; name one of {', '.join(inputs)}")
    if len(swept) > 1:
        raise UsageError("--seq: a map is of one shape and one mask; give --seq, --heads and the like one value each")
    return replace(swept[0], seed=seed), path_of(swept[0], captures)


class Reader(Struct, frozen=True):
    """Reads matrices in children of an executor, which leave them in `folder`."""

    executor: Executor
    folder: Path

    def drawn(self, specs: Sequence[Spec], case: Case, selection: Selection, *, inputs_path: str = "") -> Iterator[Map]:
        """Yield the matrices of each variant on the inputs of a case, drawn or read from a file.

        Raises UsageError for an unknown variant, option or head, before any matrix is read.
        """
        heads = selection.heads or tuple(range(case.shape.heads))
        if max(heads) >= case.shape.heads:
            raise UsageError(f"--head: there is no {max(heads)}; there are {case.shape.heads} heads, numbered from 0")
        _check_size(len(heads) * case.shape.seq_q * case.shape.seq_k)
        candidates = [candidate(spec, self.executor, flag=FLAG) for spec in specs]
        for index, (spec, one) in enumerate(zip(specs, candidates, strict=True)):
            of = replace(case, variant=one.name, options=one.options)
            question = ReadMatrices(
                target=one.target, case=of, heads=heads, path=self._path(index), inputs_path=inputs_path
            )
            yield self._read(question, spec, of=of, origin=one.origin)

    def trained(self, specs: Sequence[Spec], run: Path, selection: Selection, *, task: str | None) -> Iterator[Map]:
        """Yield the matrices of a run's trained models on a test example of their task; of all if no variant is named.

        Of several seeds, the first that kept its weights is read. Raises UsageError where there is no such training.
        """
        with Store.open(run, write=False) as store:
            jobs = _of_one_task([job for job in store.plan.jobs if job.probe.kind == "accuracy"], run, task)
        specs = specs or [Spec(name=name) for name in dict.fromkeys(job.case.variant for job in jobs)]
        for index, spec in enumerate(specs):
            job, checkpoint = _kept([job for job in jobs if _is_of(job, spec)], run, spec)
            question = ReadTrained(
                checkpoint=str(checkpoint), heads=selection.heads, layers=selection.layers, path=self._path(index)
            )
            yield self._read(question, spec, of=job.case, origin=job.origin)

    def _path(self, index: int) -> str:
        return str(self.folder / f"{index}.npz")

    def _read(self, question: ReadMatrices | ReadTrained, spec: Spec, *, of: Case, origin: Origin) -> Map:
        try:
            reading = self.executor.ask(question, Reading)
        except NoAnswer as end:
            reading = Reading(reason=f"its process {end}")
        arrays = {"matrices": _NONE, "exact": _NONE, "visible": _NONE[0].astype(np.bool_)}
        if not reading.reason:
            with np.load(question.path) as held:
                arrays = dict(held)
        return Map(
            name=str(spec), variant=of.variant, options=of.options, origin=str(origin), reading=reading, **arrays
        )


def _of_one_task(jobs: Sequence[Job], run: Path, task: str | None) -> list[Job]:
    known = list(dict.fromkeys(job.probe.task for job in jobs))
    if not known:
        raise UsageError(f"--checkpoint: run {run} trained nothing; name one whose --metrics have accuracy")
    named = [each for each in known if task is None or task in (each, each.partition(":")[0])]
    if not named:
        raise UsageError(f"--task: run {run} has no {task!r}; {suggestion(task or '', known)}")
    if len(named) > 1:
        raise UsageError(f"--task: run {run} trained on {' and '.join(named)}; name one of them")
    return [job for job in jobs if job.probe.task == named[0]]


def _kept(jobs: Sequence[Job], run: Path, spec: Spec) -> tuple[Job, Path]:
    """Return the first of a variant's trainings that kept its weights, and their file."""
    if not jobs:
        raise UsageError(f"{FLAG}: run {run} trained no {spec}; leave it out, or name another run with --checkpoint")
    for job in jobs:
        path = checkpoint_path(run, job)
        if path.is_file():
            return job, path
    raise UsageError(f"--checkpoint: run {run} kept no weights of {spec}; finish its trainings with run --resume")


def _is_of(job: Job, spec: Spec) -> bool:
    return spec.name.rpartition(":")[2] == job.case.variant and has_options(job.case.options, spec.options)


def _check_size(numbers: int) -> None:
    if numbers > _MOST_NUMBERS:
        raise UsageError(
            f"--seq: these matrices have {numbers} numbers, more than {_MOST_NUMBERS}; "
            "choose a shorter sequence, or fewer heads with --head"
        )
