"""Pretrained models in transformers' format: where one is, what it is called, and its weights. Nothing is downloaded.

Needs the extra `transformers`, which a child process alone imports.
"""

import importlib
import os
import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from attnbench.contracts.errors import UsageError, suggestion

if TYPE_CHECKING:
    import torch

FLAG = "MODEL"
_CONFIG, _CARD = "config.json", "README.md"
_LICENCE = re.compile(r"^license:\s*['\"]?([^'\"\n]+)", re.MULTILINE)
_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---", re.DOTALL)
_UNKNOWN = "unknown"


class Source(Struct, frozen=True, kw_only=True):
    """A model's folder; `gguf` names the file in it that holds the weights, empty for safetensors beside a config."""

    folder: Path
    gguf: str = ""
    name: str
    licence: str = _UNKNOWN


def locate(model: str) -> Source:
    """Return the source of a model: a folder, a GGUF file, or an installed distribution that carries either.

    Raises UsageError naming what the place lacks.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return _in_files([file for file in path.iterdir() if file.is_file()], name=path.resolve().name, where=model)
    if path.is_file():
        return _in_files([path], name=path.stem, where=model)
    try:
        installed = distribution(model)
    except (PackageNotFoundError, ValueError):
        raise UsageError(
            f"{FLAG}: {model!r} is neither a folder, a GGUF file, a checkpoint nor an installed package; give one"
        ) from None
    files = [Path(str(file.locate())) for file in installed.files or ()]
    source = _in_files(files, name=model, where=f"the package {model}")
    if source.licence != _UNKNOWN:
        return source
    return Source(folder=source.folder, gguf=source.gguf, name=source.name, licence=_licence_of(installed))


def load(source: Source, *, attention: str, head: bool = False) -> tuple[Any, Any]:
    """Return the model in float32, ready to evaluate, and its tokenizer; `head` adds that of a language model.

    `attention` names an attention registered with transformers, or one of its own. Raises UsageError where transformers
    is missing or refuses the model.
    """
    transformers = require_transformers()
    kind = transformers.AutoModelForCausalLM if head else transformers.AutoModel
    files: dict[str, Any] = {"local_files_only": True}
    if source.gguf:
        files["gguf_file"] = source.gguf
    try:
        model = kind.from_pretrained(
            source.folder, attn_implementation=attention, dtype=importlib.import_module("torch").float32, **files
        )
        return model.eval(), transformers.AutoTokenizer.from_pretrained(source.folder, **files)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{FLAG}: transformers cannot load {source.name}: {reason}") from error


def tokens_of(model: Any, tokenizer: Any, text: Path, length: int, *, asked: str) -> "torch.Tensor":
    """Return the ids of the first tokens of a text, with those that the model puts around it, [1, T].

    `asked` is the flag that gave the length. Raises UsageError for a text that is too short, and for more tokens than
    the model takes.
    """
    most = getattr(model.config, "max_position_embeddings", None)
    if most is not None and length > most:
        raise UsageError(f"{asked}: the model takes at most {most} tokens, not {length}; give {most} or less")
    try:
        content = text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--text: {str(text)!r} cannot be read as UTF-8: {error}") from None
    ids = tokenizer(content, truncation=True, max_length=length, padding=False)["input_ids"]
    if len(ids) < length:
        raise UsageError(f"--text: {str(text)!r} has {len(ids)} tokens, fewer than {length}; give a longer text")
    return importlib.import_module("torch").tensor(ids)[None]  # type: ignore[no-any-return]


def require_transformers() -> Any:
    """Return the module transformers, offline. Raises UsageError naming the extra where it is missing."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"  # read when it is imported
    try:
        return importlib.import_module("transformers")
    except ImportError:
        raise UsageError(
            f"{FLAG}: reading a pretrained model needs transformers; pip install 'attnbench[transformers]'"
        ) from None


def _in_files(files: list[Path], *, name: str, where: str) -> Source:
    """Return the one model that is among files. Raises UsageError where there is none, or more than one."""
    configured = [file.parent for file in files if file.name == _CONFIG]
    folders = [folder for folder in configured if any(folder.glob("*.safetensors"))]
    quantised = [file for file in files if file.suffix == ".gguf"]
    found = [*(str(folder) for folder in folders), *map(str, quantised)]
    if len(found) != 1:
        lacks = f"holds {len(found)} models ({suggestion('', found)})" if found else "holds no model"
        raise UsageError(f"{FLAG}: {where} {lacks}; give a folder with {_CONFIG} and safetensors, or a GGUF file")
    if folders:
        return Source(folder=folders[0], name=name, licence=_licence_in(folders[0] / _CARD))
    gguf = quantised[0]
    return Source(folder=gguf.parent, gguf=gguf.name, name=name, licence=_licence_in_gguf(gguf))


def _licence_in(card: Path) -> str:
    """Return the licence that a model card's front matter names."""
    if not card.is_file():
        return _UNKNOWN
    front = _FRONT_MATTER.search(card.read_text(errors="replace"))
    named = _LICENCE.search(front[1]) if front else None
    return named[1].strip() if named else _UNKNOWN


def _licence_in_gguf(path: Path) -> str:
    """Return the licence in a GGUF file's metadata. Raises UsageError where the package that reads it is missing."""
    try:
        gguf = importlib.import_module("gguf")
    except ImportError:
        raise UsageError(f"{FLAG}: a GGUF file needs the package gguf; pip install 'attnbench[transformers]'") from None
    try:
        field = gguf.GGUFReader(path).fields.get("general.license")
    except ValueError as error:
        raise UsageError(f"{FLAG}: {path} is no GGUF file that can be read: {error}") from error
    return str(field.contents()) if field else _UNKNOWN


def _licence_of(installed: Distribution) -> str:
    """Return the licence that a distribution's metadata names: the package's, where the model has none of its own."""
    metadata = installed.metadata
    named = next((metadata[key] for key in ("License-Expression", "License") if key in metadata), "")
    return named.splitlines()[0] if named else _UNKNOWN
