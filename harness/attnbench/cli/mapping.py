"""`attnbench map`: where each mechanism looks, as a picture, as arrays, and in distances from exact attention."""

import sys
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from attnbench.cli.flags import Only, refuse
from attnbench.cli.interrupts import at_once
from attnbench.cli.options import WHERE, Json, Out, option, switch
from attnbench.cli.streams import deliver, emit_json
from attnbench.contracts.errors import UsageError
from attnbench.contracts.flags import MEASURE, SWEEP
from attnbench.contracts.ranges import parse_numbers
from attnbench.contracts.suite import Sweep, overlay
from attnbench.contracts.text import plain
from attnbench.planning.request import Request
from attnbench.store import RESULTS, find_run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from attnbench.answers.map.matrices import Map, Reader, Selection
    from attnbench.contracts.case import Case
    from attnbench.contracts.specs import Spec

_USUAL = Sweep(seq=256, heads=8, head_dim=64, batch=1)
_OF_DRAWN = ("--seq", "--heads", "--head-dim", "--causal", "--window", "--inputs", "--seed")
_OF_TRAINED = ("--task", "--layer")


def map_matrices(
    *,
    context: typer.Context,
    variants: Annotated[
        list[str] | None,
        typer.Argument(metavar="[VARIANT]...", help="Names with options, as for run.", show_default=False),
    ] = None,
    request: Annotated[Request, Only(("seq", "heads", "head_dim", "causal", "window", "inputs", "seed", "memory"))],
    checkpoint: Annotated[
        str | None, option("A run whose trained models are read instead of drawn inputs.", "RUN", panel=SWEEP)
    ] = None,
    task: Annotated[str | None, option("The task, if the run trained on several.", "NAME", panel=SWEEP)] = None,
    head: Annotated[str, option("Heads, from 0: 0,3 or all; default: 0.", "N,...", panel=MEASURE)] = "0",
    layer: Annotated[
        str | None, option("Layers of trained models, from 0: 0,3 or all; default: all.", "N,...", panel=MEASURE)
    ] = None,
    log: Annotated[bool, switch("--log", "Colour by the logarithm of a weight.", panel=MEASURE)] = False,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "-o",
            "--output",
            help="PNG, SVG, PDF or NPZ (arrays), by its ending; may be repeated. Default: a PNG here.",
            rich_help_panel=WHERE,
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    out: Out = RESULTS,
    json: Json = False,
) -> None:
    """Draw effective attention matrices beside exact attention's, and measure how far apart they are.

    A matrix is read from the calls of any mechanism that is linear in V; any other is named with the reason.

    By default inputs are drawn for a sequence of 256 and 8 heads of 64 features.

    Examples:
      attnbench map linear linformer:k=64 sparse --seq 512 --causal
      attnbench map reformer --inputs clustered --head 0,1 -o map.pdf -o map.npz
      attnbench map vanilla linear --checkpoint latest --layer all
    """
    from attnbench.answers.map import drawing, matrices
    from attnbench.contracts.specs import parse_specs

    forms = {path: drawing.form_of(path) for path in output or ()}
    specs = parse_specs(",".join(variants), flag=matrices.FLAG) if variants else ()
    selection = matrices.Selection(
        heads=parse_numbers(head, flag="--head"), layers=parse_numbers(layer or "all", flag="--layer")
    )
    if checkpoint is not None:
        refuse(context, "{flag} and --checkpoint: the trained model and its task say it; leave it out", only=_OF_DRAWN)
        maps, caption = _trained(specs, find_run(checkpoint, out), selection, task=task, memory=request.memory_bytes)
    else:
        refuse(context, "{flag}: it is of a trained model: name its run with --checkpoint", only=_OF_TRAINED)
        if not specs:
            raise UsageError(f"{matrices.FLAG}: name at least one variant; attnbench list variants shows them")
        maps, caption = _drawn(specs, request, selection)
    if all(each.reading.reason for each in maps):
        raise UsageError("; ".join(f"{each.name}: no map: {each.reading.reason}" for each in maps))
    forms = forms or {drawing.free_name(maps): "png"}
    for path, form in forms.items():
        with at_once():  # the renderer does not listen to signals
            drawn = drawing.encoded(maps, caption, form=form, log=log)
        deliver(drawn, path)
    if json:
        emit_json([item for each in maps for item in drawing.items(each)])
    else:
        print(drawing.summary(maps))
        print(plain(f"Written: {', '.join(map(str, forms))}"), file=sys.stderr)


def _trained(
    specs: "Sequence[Spec]", run: Path, selection: "Selection", *, task: str | None, memory: int | None
) -> "tuple[list[Map], str]":
    with _reader(memory) as reader:
        maps = list(reader.trained(specs, run, selection, task=task))
    return maps, f"trained in run {run.name}, one test example"


def _drawn(specs: "Sequence[Spec]", request: Request, selection: "Selection") -> "tuple[list[Map], str]":
    from attnbench.answers.map.matrices import one_case

    case, path = one_case(overlay(_USUAL, request.sweep), seed=request.seed)
    with _reader(request.memory_bytes) as reader:
        return list(reader.drawn(specs, case, selection, inputs_path=path)), _caption(case)


@contextmanager
def _reader(memory_bytes: int | None) -> "Iterator[Reader]":
    from attnbench.answers.map.matrices import Reader
    from attnbench.execute.local import LocalExecutor

    with (
        TemporaryDirectory(prefix="attnbench-") as folder,
        closing(LocalExecutor(memory_bytes=memory_bytes)) as executor,
    ):
        yield Reader(executor, Path(folder))


def _caption(case: "Case") -> str:
    shape, mask = case.shape, case.mask
    words = [f"seq {shape.seq_q}", f"heads {shape.heads}", f"head dim {shape.head_dim}"]
    words += ["causal"] * mask.causal + [f"window {mask.window}"] * (mask.window is not None)
    return ", ".join([*words, f"{case.inputs} inputs", f"seed {case.seed}"])
