"""Train the exact models that ship for swaps, and pack them: `make checkpoints`. About a minute and a half a model.

Each file holds the models of three seeds in float16, as `SEED/WEIGHT`, with the task and the options that decide what
they were trained on as metadata. A run whose task has the same options begins with them instead of training its own.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from msgspec.structs import replace
from safetensors.torch import save_file

from attnbench.contracts.record import Job
from attnbench.contracts.suite import Sweep
from attnbench.execute.local import LocalExecutor
from attnbench.planning.plan import resolve
from attnbench.planning.request import Request
from attnbench.planning.swaps import model_options
from attnbench.plugins.exact import TARGET
from attnbench.train.accuracy import measure
from attnbench.train.checkpoint import read

FOLDER = Path(__file__).parent / "attnbench_suites" / "checkpoints"
TASKS = {"recall": "mqar:preset=recall"}


def main(names: list[str]) -> None:
    """Make the files of the given names, or all."""
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    for name in names or TASKS:
        request = Request(sweep=Sweep(variants="vanilla", seq=64, metrics="accuracy", tasks=TASKS[name]))
        executor = LocalExecutor()
        resolved = resolve(request, executor)
        executor.close()
        (task,) = resolved.tasks
        jobs = [replace(job, target=TARGET) for job in resolved.jobs()]
        weights = {f"{job.round}/{key}": value for job in jobs for key, value in _trained(job).items()}
        metadata = {"task": task.name, "options": json.dumps(model_options(task.options)), "seeds": str(len(jobs))}
        save_file(weights, FOLDER / f"{name}.safetensors", metadata=metadata)


def _trained(job: Job) -> dict[str, torch.Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "it.pt"
        outcome = measure(job, lambda _: None, checkpoint=file)
        print(job.probe.task, job.round, {each.metric: each.values[0] for each in outcome.measurements[:2]}, flush=True)
        kept = read(file)[1]["kept"]
    return {name: weight.half().contiguous() for name, weight in kept.items()}


if __name__ == "__main__":
    main(sys.argv[1:])
