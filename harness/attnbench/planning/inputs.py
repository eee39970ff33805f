"""The inputs of a sweep: those that are drawn, and those that were captured in a model and are read from a file."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from attnbench.contracts.case import DRAWN, Case, Mask, Shape
from attnbench.contracts.errors import UsageError, suggestion
from attnbench.contracts.ranges import parse_range
from attnbench.contracts.suite import Sweep, flag_of
from attnbench.planning.cases import cases
from attnbench.plugins import registry

_FILE = "file:"
_FIXED = ("seq", "seq_k", "heads", "head_dim", "width", "batch", "tokens", "causal", "shapes")  # by a capture


class Capture(Struct, frozen=True, kw_only=True):
    """A file with queries, keys and values of a model's layers; `name` is what rows call it, before the layer.

    `model` and `text` say what it was captured in, and on.
    """

    name: str
    path: Path
    shapes: dict[str, Shape]  # by layer
    mask: Mask
    model: str
    text: str

    def cases(self, swept: Iterable[Case], *, kv_heads: Iterable[int | None] = (None,)) -> Iterator[Case]:
        """Yield the case of each layer for each dtype, pass and level swept; the file determines everything else.

        Keys of shared heads are repeated for each query head, unless `kv_heads` asks for the file's own number.
        """
        for layer, shape in self.shapes.items():
            for case in swept:
                for wanted in kv_heads:
                    heads = shape.kv_heads if wanted == shape.kv_heads else shape.heads
                    at = replace(shape, kv_heads=heads, seq_q=1 if case.passes == "decode" else shape.seq_q)
                    mask = replace(case.mask, causal=self.mask.causal)
                    yield replace(case, shape=at, mask=mask, inputs=f"{self.name}:{layer}", shape_name="")


def swept_cases(sweep: Sweep) -> tuple[tuple[Case, ...], tuple[Capture, ...]]:
    """Return every case of a sweep, and the captures that its inputs name.

    A capture fixes the shape and whether it is causal; everything else is the sweep's. Raises UsageError.
    """
    drawn, captures = _split(sweep.inputs)
    if not captures:
        return cases(sweep), ()
    at_drawn = cases(replace(sweep, inputs=drawn)) if drawn else ()
    grouped = parse_range(str(sweep.kv_heads), flag="--kv-heads") if sweep.kv_heads is not None else (None,)
    whole = cases(replace(sweep, inputs=None, kv_heads=None))
    at_captured = (case for capture in captures for case in capture.cases(whole, kv_heads=grouped))
    return _distinct((*at_drawn, *at_captured)), captures


def refuse_what_captures_fix(flags: Sweep) -> None:
    """Raise UsageError for a flag that says what the captures, which are all the inputs there are, say already."""
    drawn, captures = _split(flags.inputs)
    given = [flag_of(name) for name in _FIXED if captures and not drawn and getattr(flags, name) is not None]
    if given:
        raise UsageError(f"{given[0]}: {captures[0].name} has its own, as it was captured; leave it out")


def _split(text: str | None) -> tuple[str, tuple[Capture, ...]]:
    """Split a sweep's inputs into those that are drawn, joined by commas, and captures. Raises UsageError."""
    words = [word.strip() for word in (text or "").split(",")] if text is not None else []
    captures = tuple(find_capture(word) for word in words if word not in DRAWN)
    return ",".join(word for word in words if word in DRAWN), captures


def find_capture(word: str, *, flag: str = "--inputs") -> Capture:
    """Return the capture of a name or of `file:PATH`, either with `:LAYER` behind it for one of its layers.

    Raises UsageError naming the flag and the fix.
    """
    name, _, layer = word.rpartition(":")
    if layer.isdigit() and name not in ("", _FILE.rstrip(":")):
        capture = find_capture(name, flag=flag)
        if layer not in capture.shapes:
            raise UsageError(f"{flag}: {name} has no layer {layer}; it has {', '.join(capture.shapes)}")
        return replace(capture, shapes={layer: capture.shapes[layer]})
    if word.startswith(_FILE):
        path = Path(word.removeprefix(_FILE)).expanduser()
        if not path.is_file():
            raise UsageError(f"{flag}: there is no file {str(path)!r}; make one with attnbench capture")
        return _read(path.resolve(), word)
    known = registry.entries("inputs")
    if word not in known:
        names = (*DRAWN, *known)
        raise UsageError(f"{flag}: {word!r} is not one of {', '.join(names)}, nor file:PATH; {suggestion(word, names)}")
    return _read(registry.resource(known[word][0]), word)


def shipped() -> tuple[Capture, ...]:
    """Return the captures that come with installed packages."""
    return tuple(find_capture(name) for name in registry.entries("inputs"))


def usual_cases(swept: Sequence[Case]) -> tuple[Case, ...]:
    """Return the cases on which agreement is measured unless inputs are named: shipped captures of the cases' masks.

    One for each layer that ships, whatever lengths are swept; a mask without a capture, and the layer level, keep the
    cases as they are.
    """
    captures, found = shipped(), list[Case]()
    for case in swept:
        fitting = [one for one in captures if one.mask.causal == case.mask.causal and case.level == "core"]
        found += [each for one in fitting for each in one.cases([case])] or [case]
    return _distinct(found)


def _distinct(several: Iterable[Case]) -> tuple[Case, ...]:
    return tuple({case.key: case for case in several}.values())


def path_of(case: Case, captures: Iterable[Capture]) -> str:
    """Return the file of a case's inputs, empty for those that are drawn."""
    name = case.inputs.rpartition(":")[0]
    return next((str(one.path) for one in captures if one.name == name), "")


@cache
def _read(path: Path, word: str) -> Capture:
    from safetensors import SafetensorError, safe_open  # here, as a drawn sweep needs none of it

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            sizes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - it is no mapping
        shapes = {name.removesuffix(".q"): _shape(sizes, name) for name in sizes if name.endswith(".q")}
        mask = Mask(causal=metadata["causal"] == "true")
        float(metadata["scale"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise UsageError(f"--inputs: {path.name} is no capture ({error}); make one with attnbench capture") from error
    name = word
    if word.startswith(_FILE):
        name = f"{_FILE}{path.name}@{sha256(path.read_bytes()).hexdigest()[:8]}"
    ordered = dict(sorted(shapes.items(), key=lambda item: (len(item[0]), item[0])))
    model, text = (metadata.get(key, "") for key in ("model", "text"))
    return Capture(name=name, path=path, shapes=ordered, mask=mask, model=model, text=text)


def _shape(sizes: dict[str, list[int]], query: str) -> Shape:
    layer = query.removesuffix("q")
    batch, heads, queries, head_dim = sizes[query]
    groups, keys = sizes[f"{layer}k"][1:3]
    return Shape(batch=batch, heads=heads, kv_heads=groups, seq_q=queries, seq_k=keys, head_dim=head_dim)
