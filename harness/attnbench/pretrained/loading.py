"""Load a pretrained model with its tokenizer from a folder, or from an installed package that carries one. Offline."""

import os
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import torch
from msgspec import Struct

from attnbench.contracts.errors import UsageError

_WEIGHTS = ("*.safetensors", "*.gguf")


class Pretrained(Struct, frozen=True, eq=False):
    """A model in evaluation, its tokenizer, and its name."""

    model: Any
    tokenizer: Any
    name: str
    causal: bool

    def tokens(self, text: str, count: int) -> torch.Tensor:
        """Return the first `count` tokens of a text, [1, T], with those that the tokenizer adds at its ends.

        Raises UsageError for a text that is too short, or a count beyond the model's positions.
        """
        most = getattr(self.model.config, "max_position_embeddings", count)
        if count > most:
            raise UsageError(f"--seq: {self.name} has {most} positions; give at most that")
        added = self.tokenizer("", add_special_tokens=True)["input_ids"]
        ends = len(added)
        own = self.tokenizer(text, add_special_tokens=False)["input_ids"][: count - ends]
        if len(own) < count - ends:
            raise UsageError(f"--text: it has {len(own) + ends} tokens for {self.name}, and --seq asks for {count}")
        return torch.tensor([[*added[:1], *own, *added[1:]] if ends else own])


def load(where: str) -> Pretrained:
    """Load the model of a local folder in transformers' format, or of an installed distribution with such a folder.

    The folder holds a config with safetensors, or a GGUF file. Nothing is downloaded. Raises UsageError.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # before the import
    try:
        from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise UsageError("MODEL: pretrained models need transformers: pip install 'attnbench[transformers]'") from error
    weights = _weights(where)
    given = {"gguf_file": weights.name} if weights.suffix == ".gguf" else {}
    folder = str(weights.parent)
    config = AutoConfig.from_pretrained(folder, **given)
    kinds = config.architectures or ([] if not given else ["CausalLM"])
    causal = any("CausalLM" in kind or "LMHead" in kind for kind in kinds)
    kind = AutoModelForCausalLM if causal else AutoModel
    model = kind.from_pretrained(folder, dtype=torch.float32, **given).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, **given)
    return Pretrained(model, tokenizer, _name(where, weights), causal)


def _weights(where: str) -> Path:
    """Return the file with the weights. Raises UsageError."""
    folder = Path(where).expanduser()
    if folder.is_dir():
        found = [path for pattern in _WEIGHTS for path in sorted(folder.glob(pattern))]
    else:
        try:
            held = [Path(str(file.locate())) for file in files(where) or ()]
        except PackageNotFoundError:
            raise UsageError(f"MODEL: {where!r} is no folder and no installed package; give one of these") from None
        found = [path for pattern in _WEIGHTS for path in held if path.match(pattern)]
    if not found:
        raise UsageError(f"MODEL: {where!r} holds no safetensors and no GGUF file; give the folder that does")
    return found[0]


def _name(where: str, weights: Path) -> str:
    return weights.stem if weights.suffix == ".gguf" else Path(where).name
