"""Captures of small models with random weights, made here: what is written is what the model's attention was given."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from attnbench.contracts.case import Mask
from attnbench.contracts.errors import UsageError
from attnbench.execute.capturing import capture
from attnbench.execute.messages import Capture, Captured
from attnbench.measure.reference import exact_attention
from helpers.command import call
from helpers.subtests import as_subtests

transformers = pytest.importorskip("transformers")

WORDS = ["[UNK]", "the", "query", "finds", "key", "and", "takes", "its", "value", "where", "no", "other"]
SIZES = {"hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
LENGTH = 24


def saved(folder: Path, config: Any) -> Path:
    """Save a model with random weights, and a tokenizer of a few words; return its folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nA model.\n")
    return folder


def llama(folder: Path, **changed: Any) -> Path:
    return saved(folder, transformers.LlamaConfig(vocab_size=16, num_key_value_heads=2, **SIZES, **changed))


def bert(folder: Path) -> Path:
    return saved(folder, transformers.BertConfig(vocab_size=16, max_position_embeddings=32, **SIZES))


def text(folder: Path) -> Path:
    path = folder / "text.txt"
    path.write_text(" ".join(WORDS[1 + number * 7 % 11] for number in range(100)))
    return path


def asked(model: Path, folder: Path, **changed: Any) -> Captured:
    given = {"text": str(text(folder)), "length": LENGTH, "path": str(folder / "heads.safetensors")} | changed
    return capture(Capture(model=str(model), **given), lambda _text: None)


def joined(out_BHTD: torch.Tensor) -> torch.Tensor:
    return out_BHTD.transpose(1, 2).flatten(2)


def input_of_projection(model: Any, name: str, ids: torch.Tensor) -> torch.Tensor:
    """Return what a model's own attention gives, read where its output projection takes it: [B, T, H * D]."""
    seen = []
    hook = model.get_submodule(name).register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    with torch.no_grad():
        model(input_ids=ids)
    hook.remove()
    return seen[0]


@as_subtests(
    "make, projection, causal, kv_heads",
    [
        (llama, "layers.1.self_attn.o_proj", True, 2),
        (bert, "encoder.layer.1.attention.output.dense", False, 4),
    ],
)
def test_attention_on_what_was_captured_gives_the_models_own_output(
    make: Any, projection: str, causal: bool, kv_heads: int, tmp_path: Path
) -> None:
    folder = make(tmp_path / make.__name__)
    told = asked(folder, tmp_path, layers=(1,))
    assert (told.layers, told.heads, told.kv_heads, told.head_dim) == ((1,), 4, kv_heads, 16)
    assert (told.causal, told.tokens, told.licence) == (causal, LENGTH, "apache-2.0")
    with safe_open(told.path, "pt") as file:
        q, k, v = (file.get_tensor(f"1.{name}") for name in "qkv")
        assert file.metadata()["causal"] == json.dumps(causal)
        scale = float(file.metadata()["scale"])
    ours = exact_attention(q.double() * scale * 4, k.double(), v.double(), mask=Mask(causal=causal))  # 4 is sqrt(D)
    ids = transformers.AutoTokenizer.from_pretrained(folder)(text(tmp_path).read_text())["input_ids"][:LENGTH]
    own = input_of_projection(transformers.AutoModel.from_pretrained(folder), projection, torch.tensor(ids)[None])
    assert float((joined(ours) - own).norm() / own.norm()) < 1e-5


def test_attention_that_a_capture_cannot_hold_is_refused_with_the_reason(tmp_path: Path) -> None:
    sizes = SIZES | {"head_dim": 16, "num_key_value_heads": 2, "vocab_size": 16}
    windowed = transformers.MistralConfig(**sizes, sliding_window=8)
    with pytest.raises(UsageError, match="neither full nor causal"):
        asked(saved(tmp_path / "windowed", windowed), tmp_path)
    capped = transformers.Gemma2Config(
        **sizes, attn_logit_softcapping=0.5, query_pre_attn_scalar=1, initializer_range=1.0, sliding_window=64
    )
    with pytest.raises(UsageError, match="soft-caps"):
        asked(saved(tmp_path / "capped", capped), tmp_path)
    whole = transformers.BartConfig(vocab_size=16, d_model=32, encoder_layers=1, decoder_layers=1)
    with pytest.raises(UsageError, match="an encoder and a decoder"):
        asked(saved(tmp_path / "whole", whole), tmp_path)


@as_subtests(
    "changed, told",
    [
        ({"length": 33}, "--seq: the model takes at most 32 tokens"),
        ({"layers": (3,)}, "--layers: there is no 3"),
        ({"text": ""}, "--text"),
        ({"text": "missing.txt"}, "--text"),
        ({"path": "/nowhere/heads.safetensors"}, "--output"),
        ({"model": "no-such-package"}, "neither a folder"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_flag(changed: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=told) as refused:
        asked(Path(changed.pop("model", bert(tmp_path / "bert"))), tmp_path, **changed)
    assert "\n" not in str(refused.value)


def test_the_command_writes_the_chosen_layers_in_the_chosen_precision(tmp_path: Path) -> None:
    words = ("--text", str(text(tmp_path)), "--seq", "16", "--layers", "0,2", "--dtype", "float16", "--name", "mine")
    done = call("capture", str(bert(tmp_path / "bert")), *words, "-o", "a.safetensors", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["layers"], told["model"], told["tokens"]) == ([0, 2], "mine", 16)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert set(file.keys()) == {f"{layer}.{name}" for layer in (0, 2) for name in "qkv"}
        assert file.get_tensor("2.q").dtype == torch.float16


def test_a_trained_model_is_captured_on_its_tasks_example_and_takes_no_text(tmp_path: Path) -> None:
    task = "mqar:length=16,pairs=2,vocabulary=16,width=16,layers=2,heads=2,batch=16,steps=5,train_examples=64"
    words = ("--variants", "vanilla", "--metrics", "accuracy", "--tasks", task, "--threads", "1")
    assert call("run", *words, "--out", str(tmp_path), cwd=tmp_path).returncode == 0
    checkpoint = min(tmp_path.glob("*/checkpoints/*"))
    done = call("capture", str(checkpoint), "-o", "own.safetensors", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["layers"], told["tokens"], told["heads"], told["head_dim"]) == ([0, 1], 16, 2, 8)
    refused = call("capture", str(checkpoint), "--text", str(text(tmp_path)), cwd=tmp_path)
    assert (refused.returncode, "--text" in refused.stderr) == (2, True)
