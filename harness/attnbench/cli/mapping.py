"""`attnbench map`: where each mechanism looks, as a picture, as arrays, and in distances from exact attention."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnbench.cli import flags
from attnbench.cli.options import Json, Out
from attnbench.cli.streams import deliver, emit_json
from attnbench.contracts.errors import UsageError
from attnbench.contracts.text import plain
from attnbench.store import RESULTS

if TYPE_CHECKING:
    from attnbench.answers.map.matrices import Map, Selection
    from attnbench.contracts.case import Case

_USUAL = {"seq": "256", "heads": "8", "head_dim": "64", "batch": "1"}
_DRAWN = ("seq", "heads", "head_dim", "causal", "window", "inputs", "seed")


def map_matrices(
    variants: Annotated[
        list[str] | None,
        typer.Argument(metavar="[VARIANT]...", help="As for run, with options.", show_default=False),
    ] = None,
    seq: flags.Seq = None,
    heads: flags.Heads = None,
    head_dim: flags.HeadDim = None,
    causal: flags.Causal = None,
    window: flags.Window = None,
    inputs: flags.Inputs = None,
    seed: flags.Seed = None,
    checkpoint: flags.Checkpoint = None,
    task: flags.TrainedTask = None,
    head: flags.ShownHeads = "0",
    layer: flags.ShownLayers = None,
    log: flags.LogScale = False,
    output: flags.Pictures = None,
    out: Out = RESULTS,
    json: Json = False,
) -> None:
    """Draw effective attention matrices beside exact attention's, and tell how far they lie apart.

    A matrix is read from the calls of any mechanism that is linear in V; one that is not is named with the reason.

    Examples:
      attnbench map linear linformer:k=64 sparse --seq 512 --causal
      attnbench map reformer --inputs clustered --head 0,1 -o map.pdf -o map.npz
      attnbench map vanilla linear --checkpoint latest --layer all
    """
    asked = locals()
    from attnbench.answers.map import drawing

    forms = {path: drawing.form_of(path) for path in output or ()}
    found, caption = _read(asked, out)
    if all(each.reading.reason for each in found):
        raise UsageError("; ".join(f"{each.name}: no map: {each.reading.reason}" for each in found))
    forms = forms or {drawing.free_name(found): "png"}
    for path, form in forms.items():
        deliver(drawing.encoded(found, caption, form=form, log=log), path)
    if json:
        emit_json([line for each in found for line in drawing.items(each)])
    else:
        print(drawing.summary(found))
        print(plain(f"Written: {', '.join(map(str, forms))}"), file=sys.stderr)


def _read(asked: dict[str, Any], out: Path) -> "tuple[list[Map], str]":
    """Read the matrices that are asked for; say in words what they are of."""
    from contextlib import closing
    from tempfile import TemporaryDirectory

    from attnbench.answers.map import matrices
    from attnbench.contracts.specs import parse_specs
    from attnbench.execute.local import LocalExecutor
    from attnbench.store import find_run

    specs = parse_specs(",".join(asked["variants"]), flag=matrices.FLAG) if asked["variants"] else ()
    selection = _selection(asked)
    with TemporaryDirectory(prefix="attnbench-") as folder, closing(LocalExecutor()) as executor:
        reader = matrices.Reader(executor, Path(folder))
        if asked["checkpoint"] is not None:
            _refuse_beside(asked, _DRAWN, "--checkpoint: the trained model and its task say it")
            run = find_run(asked["checkpoint"], out)
            found = list(reader.trained(specs, run, selection, task=asked["task"]))
            return found, f"trained in run {run.name}, one test example"
        _refuse_beside(asked, ("task", "layer"), "it is of a trained model: name its run with --checkpoint")
        if not specs:
            raise UsageError(f"{matrices.FLAG}: name at least one variant; attnbench list variants shows them")
        case = _case(asked)
        return list(reader.drawn(specs, case, selection)), _told(case)


def _refuse_beside(asked: dict[str, Any], names: Sequence[str], why: str) -> None:
    for name in names:
        if asked[name] is not None:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag}: {why}" if why.startswith("it is") else f"{flag} and {why}; leave it out")


def _case(asked: dict[str, Any]) -> "Case":
    from attnbench.answers.map.matrices import one_case

    given = {name: value for name, value in asked.items() if value is not None and name in _DRAWN}
    return one_case(flags.sweep_of(_USUAL | given), seed=asked["seed"] or 0)


def _selection(asked: dict[str, Any]) -> "Selection":
    from attnbench.answers.map.matrices import Selection

    return Selection(heads=_places(asked["head"], "--head"), layers=_places(asked["layer"] or "all", "--layer"))


def _places(text: str, flag: str) -> tuple[int, ...]:
    """Read numbers from 0, as 0,3; all are none."""
    if text == "all":
        return ()
    if not re.fullmatch(r"\d{1,6}(,\d{1,6})*", text):
        raise UsageError(f"{flag}: {text!r} is not a list of numbers from 0; write 0, 0,3 or all")
    return tuple(dict.fromkeys(map(int, text.split(","))))


def _told(case: "Case") -> str:
    shape, mask = case.shape, case.mask
    words = [f"seq {shape.seq_q}", f"heads {shape.heads}", f"head dim {shape.head_dim}"]
    words += ["causal"] * mask.causal + [f"window {mask.window}"] * (mask.window is not None)
    return ", ".join([*words, f"{case.inputs} inputs", f"seed {case.seed}"])
