"""Captured inputs by name: shipped ones, and files. The parent reads their headers; children read the tensors."""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from msgspec import Struct

from attnbench.contracts.case import DRAWN, Mask
from attnbench.contracts.errors import UsageError, is_text, suggestion
from attnbench.contracts.suite import Sweep, flag_of
from attnbench.plugins import registry

FLAG = "--inputs"
_FILE = "file:"
# What a capture fixes of a sweep, and what can be said of it beside.
_SIZES = ("seq", "seq_k", "heads", "head_dim", "batch")
_NEVER = ("width", "tokens", "shapes")


class CapturedInputs(Struct, frozen=True, kw_only=True):
    """One layer of a capture: what a case says of it, where the file is, and the sizes that it fixes.

    `name` holds the file's name and, where the file has several layers, the layer's.
    """

    name: str
    path: str
    digest: str
    sizes: dict[str, int]  # seq, seq_k, heads, kv_heads, head_dim, batch
    mask: Mask
    model: str
    text: str


class _Header(Struct, frozen=True):
    digest: str
    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]


def inputs_of(sweep: Sweep) -> tuple[str | CapturedInputs, ...]:
    """Return the inputs that a sweep names, each once: a word for drawn ones, or a layer of a capture.

    Raises UsageError for a name that is neither, and a file that is no capture.
    """
    named: dict[str, str | CapturedInputs] = {}
    for word in (word.strip() for word in str(sweep.inputs or DRAWN[0]).split(",")):
        if word in DRAWN:  # the known word itself: a default is left out of a key by identity
            named[word] = DRAWN[DRAWN.index(word)]
        else:
            named |= {one.name: one for one in captured(word)}
    return tuple(named.values())


def paths(sweep: Sweep) -> Mapping[str, str]:
    """Return where the captures of a sweep are, by digest."""
    return {one.digest: one.path for one in inputs_of(sweep) if isinstance(one, CapturedInputs)}


def captured(word: str) -> tuple[CapturedInputs, ...]:
    """Return the layers of a capture, as --inputs names it: `smollm2`, `file:a.safetensors`, `file:a.safetensors:12`.

    Raises UsageError for what does not exist, and for a file that is no capture.
    """
    shown, path, layer = _located(word)
    stat = path.stat()
    header = _header(path, stat.st_mtime_ns, stat.st_size)
    layers = sorted({int(key.partition(".")[0]) for key in header.shapes})
    if layer is not None and layer not in layers:
        raise UsageError(f"{FLAG}: {word!r}: there is no layer {layer}; there are {', '.join(map(str, layers))}")
    return tuple(
        _captured(f"{shown}:{one}" if len(layers) > 1 else shown, one, path, header)
        for one in (layers if layer is None else [layer])
    )


def check_flags(flags: Sweep, sweep: Sweep) -> None:
    """Raise UsageError for a flag that contradicts the captures which a sweep names."""
    for one in inputs_of(sweep):
        if isinstance(one, CapturedInputs):
            _check(flags, one)


def _check(flags: Sweep, one: CapturedInputs) -> None:
    for axis in _NEVER:
        if getattr(flags, axis) is not None:
            raise UsageError(f"{flag_of(axis)}: the capture {one.name} fixes its sizes; leave {flag_of(axis)} out")
    for axis in _SIZES:
        given = getattr(flags, axis)
        if given is not None and str(given) != str(one.sizes[axis]):
            raise UsageError(
                f"{flag_of(axis)}: the capture {one.name} has {one.sizes[axis]}, not {given}; leave {flag_of(axis)} out"
            )
    if flags.kv_heads is not None and str(flags.kv_heads) not in map(str, (one.sizes["kv_heads"], one.sizes["heads"])):
        raise UsageError(
            f"--kv-heads: the capture {one.name} has {one.sizes['kv_heads']}, or repeated {one.sizes['heads']}; "
            "give one of these"
        )
    if flags.causal is not None and flags.causal != one.mask.causal:
        word = "causal" if one.mask.causal else "not causal"
        raise UsageError(f"--causal: the capture {one.name} is {word}; leave it out")
    if flags.level is not None and "layer" in flags.level:
        raise UsageError(
            f"--level: the capture {one.name} holds queries, keys and values, and no tokens to project; use core"
        )


def _located(word: str) -> tuple[str, Path, int | None]:
    """Return what a row calls the capture, its path, and the layer that is named."""
    if not word.startswith(_FILE):
        name, colon, layer = word.partition(":")
        if name not in registry.entries("inputs"):
            known = [*DRAWN, *registry.entries("inputs")]
            raise UsageError(
                f"{FLAG}: {word!r} is not one of {', '.join(known)}; {suggestion(name, known)} or write file:PATH"
            )
        return name, registry.resource(registry.find(name, "inputs", flag=FLAG)), _layer(word, layer) if colon else None
    text, number = word.removeprefix(_FILE), ""
    if not Path(text).is_file() and ":" in text:
        text, _, number = text.rpartition(":")
    path = Path(text).expanduser().resolve()
    if not path.is_file() or not is_text(str(path)):
        raise UsageError(f"{FLAG}: there is no file {text!r}; attnbench capture writes one")
    return f"{_FILE}{path.name}", path, _layer(word, number) if number else None


def _layer(word: str, text: str) -> int:
    if not text.isdecimal():
        raise UsageError(f"{FLAG}: {word!r}: {text!r} is not a layer; write its number, from 0")
    return int(text)


@lru_cache
def _header(path: Path, _mtime_ns: int, _size: int) -> _Header:
    """Return a capture's header. It is read again only once the file has changed."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            metadata = dict(file.metadata() or {})
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{FLAG}: {path} is no safetensors file: {error}") from None
    keys = {f"{key.partition('.')[0]}.{name}" for key in shapes for name in "qkv"}
    if not shapes or keys != set(shapes) or not all(key.partition(".")[0].isdecimal() for key in keys):
        raise UsageError(f"{FLAG}: {path} is no capture: it lacks the q, k or v of a layer; use attnbench capture")
    for name in ("causal", "scale"):
        if name not in metadata:
            raise UsageError(f"{FLAG}: {path} is no capture: its metadata lack {name!r}; make it by attnbench capture")
    return _Header(hashlib.sha256(path.read_bytes()).hexdigest()[:16], shapes, metadata)


def _captured(name: str, layer: int, path: Path, header: _Header) -> CapturedInputs:
    q, k = header.shapes[f"{layer}.q"], header.shapes[f"{layer}.k"]
    v = header.shapes[f"{layer}.v"]
    if len(q) != 4 or k != v or (q[0], q[3]) != (k[0], k[3]) or q[1] % k[1]:
        raise UsageError(f"{FLAG}: {path}: the sizes of layer {layer} do not belong together; capture it again")
    names = ("batch", "heads", "seq", "head_dim", "kv_heads", "seq_k")
    sizes = dict(zip(names, (*q, k[1], k[2]), strict=True))
    return CapturedInputs(
        name=name,
        path=str(path),
        digest=header.digest,
        sizes=sizes,
        mask=Mask(causal=header.metadata["causal"] == "true"),
        model=header.metadata.get("model", ""),
        text=header.metadata.get("text", ""),
    )
