"""What swaps begin with: options of `--swap`, and the exact models that ship with packages for some tasks."""

from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from attnbench.contracts.case import Case, Option
from attnbench.contracts.errors import UsageError, suggestion
from attnbench.contracts.record import Swap
from attnbench.contracts.suite import Sweep
from attnbench.contracts.task import Training
from attnbench.execute.executor import Executor, NoAnswer
from attnbench.execute.messages import DescribeModel
from attnbench.planning.tasks import PlannedTask
from attnbench.plugins import registry

# What decides a model's shape and what it was trained on; a task's own options do, too.
_OF_A_MODEL = ("layers", "heads", "width", "feed_forward", "positions", "norm", "tied", "match")
_TYPED = ("steps", "learning_rate", "layers", "exact_tokens", "tokens")


class Base(Struct, frozen=True, kw_only=True):
    """A file with exact models that were trained on a task, one for each seed."""

    path: Path
    task: str
    options: dict[str, Option]
    seeds: int
    digest: str

    def serves(self, task: PlannedTask) -> bool:
        """Return whether the models were trained on a task, and have the shape that it asks for."""
        return task.name == self.task and model_options(task.options) == self.options


def model_options(options: Mapping[str, Any]) -> dict[str, Option]:
    """Return a task's options without those of the training alone: its own, and the model's."""
    training = set(Training.__struct_fields__) - set(_OF_A_MODEL)
    return {name: value for name, value in options.items() if name not in training}


def parse_swap(text: str | None) -> Swap:
    """Parse the options of --swap: steps=200,layers=0+2,exact_tokens=4. Raises UsageError naming the option."""
    given: dict[str, Any] = {}
    for piece in filter(None, (text or "").split(",")):
        name, equals, value = piece.partition("=")
        if not equals or name not in _TYPED:
            raise UsageError(f"--swap: {piece!r} is no option; {suggestion(name, _TYPED)}")
        given[name] = value.split("+") if name == "layers" else value
    try:
        return msgspec.convert(given, Swap, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"--swap: {text}: {error}") from error


class PlannedModel(Struct, frozen=True, kw_only=True):
    """A pretrained model to swap in: its attention's case on the text, and how it is swapped."""

    name: str
    case: Case
    swap: Swap


def planned_model(sweep: Sweep, executor: Executor) -> PlannedModel | None:
    """Return the pretrained model of a sweep, as a child describes it; None where it names none. Raises UsageError."""
    swap = parse_swap(sweep.swap)
    if sweep.model is None:
        return None
    assert sweep.text is not None, "check_model refuses a model without a text"
    text = Path(sweep.text).expanduser().resolve()
    content = sha256(text.read_bytes()).hexdigest()[:16]
    whole = replace(swap, model=sweep.model, text=str(text), base=content, steps=0)
    try:
        case = executor.ask(DescribeModel(swap=whole), Case)
    except NoAnswer as end:
        raise UsageError(f"--model: {sweep.model!r} cannot be loaded: its process {end}") from None
    except UsageError as mistake:  # which names the argument of attnbench capture
        raise UsageError(str(mistake).replace("MODEL:", "--model:", 1)) from None
    return PlannedModel(name=Path(sweep.model).name, case=case, swap=whole)


def check_model(sweep: Sweep) -> None:
    """Raise UsageError where one of --model and --text is missing, or the text is no file."""
    if (sweep.model is None) != (sweep.text is None):
        given, missing = ("--model", "--text") if sweep.text is None else ("--text", "--model")
        raise UsageError(f"{missing}: {given} is given without it; a pretrained model is swapped on a text")
    if sweep.text is not None and not Path(sweep.text).expanduser().is_file():
        raise UsageError(f"--text: there is no file {sweep.text!r}; name a text to read")


def base_for(task: PlannedTask) -> Base | None:
    """Return the models that ship for a task, or None where the run must train its own."""
    return next((base for base in _shipped() if base.serves(task)), None)


@cache
def _shipped() -> tuple[Base, ...]:
    entries = (entry for claims in registry.entries("checkpoints").values() for entry in claims)
    return tuple(_read(registry.resource(entry)) for entry in entries)


def _read(path: Path) -> Base:
    from safetensors import safe_open  # here, as few runs swap

    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    return Base(
        path=path,
        task=metadata["task"],
        options=msgspec.json.decode(metadata["options"]),
        seeds=int(metadata["seeds"]),
        digest=sha256(path.read_bytes()).hexdigest()[:16],
    )
