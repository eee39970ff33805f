"""Published implementations of mechanisms, and ours made alike: what the speed table and the parity tests share."""

# B batch, H heads, G key/value heads, N tokens, D head dimension, E width (H * D)
import warnings
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch
from torch.nn.functional import elu

from attnbench import Attention, Case, Mask, Shape
from attnbench.contracts.case import Dtype, Passes
from attnbench.contracts.variant import build, complete_options
from attnbench.measure.layer import Layer
from attnbench.plugins.registry import find, load

Attend = Callable[..., Any]


def imported(name: str) -> Any:
    """Import a published package, or skip the test: `pip install attnbench[peers]` brings all of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, exc_type=ImportError)


def shape(tokens: int, *, batch: int = 1, heads: int, dim: int) -> Shape:
    return Shape(batch=batch, heads=heads, kv_heads=heads, seq_q=tokens, seq_k=tokens, head_dim=dim)


def case(
    name: str,
    of: Shape,
    *,
    causal: bool = False,
    dtype: Dtype = "float32",
    passes: Passes = "forward",
    **options: object,
) -> Case:
    """Make a registered variant's case, with the defaults of the options that are not given."""
    complete = msgspec.structs.asdict(complete_options(plugin(name), options))
    return Case(variant=name, options=complete, shape=of, mask=Mask(causal=causal), dtype=dtype, passes=passes)


def plugin(name: str) -> Any:
    return load(find(name, "variants", flag="").target)


def ours(of: Case) -> Attention:
    return build(plugin(of.variant), of)


def layer(of: Case) -> Layer:
    return Layer(of, ours(of), tied=False)


def reformer_pytorch(*, bucket: int, rounds: int, causal: bool = False) -> Attend:
    """Return reformer-pytorch's LSH attention of a [B, H, N, D], in place of queries and keys, and values."""
    peer = imported("reformer_pytorch").LSHAttention(bucket_size=bucket, n_hashes=rounds, causal=causal)

    def attend(qk_BHND: torch.Tensor, v_BHND: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = peer(qk_BHND.flatten(0, 1), v_BHND.flatten(0, 1))[0]
        return out.view_as(v_BHND)

    return attend


def transformers_lsh(of: Shape, *, bucket: int, rounds: int, causal: bool = False) -> Attend:
    """Return transformers' LSH attention without its projections: what it does between them and the merged heads."""
    reformer = imported("transformers.models.reformer.modeling_reformer")
    config = imported("transformers").ReformerConfig(
        hidden_size=of.heads * of.head_dim, num_attention_heads=of.heads, attention_head_size=of.head_dim,
        num_hashes=rounds, is_decoder=causal, num_buckets=of.seq_q // bucket, lsh_attn_chunk_length=bucket,
        lsh_attention_probs_dropout_prob=0.0, hash_seed=0,
    )  # fmt: skip
    peer = reformer.LSHSelfAttention(config)

    def attend(qk_BHND: torch.Tensor, v_BHND: torch.Tensor) -> torch.Tensor:
        peer.query_key, peer.value = Given(qk_BHND), Given(v_BHND)
        return split(peer(peer.query_key(None), buckets=None).hidden_states, of.heads)

    return attend


class Given(torch.nn.Module):
    """What stands for a package's projection to heads: it gives those that it was made of, joined."""

    def __init__(self, x_BHND: torch.Tensor) -> None:
        super().__init__()
        self.joined_BNE = joined(x_BHND)

    def forward(self, _tokens: torch.Tensor | None) -> torch.Tensor:
        return self.joined_BNE


def joined(x_BHND: torch.Tensor) -> torch.Tensor:
    return x_BHND.transpose(1, 2).flatten(2)


def split(x_BNE: torch.Tensor, heads: int) -> torch.Tensor:
    return x_BNE.unflatten(2, (heads, -1)).transpose(1, 2)


def linformer_layer(of: Shape, *, k: int, **options: bool) -> Any:
    layer = imported("linformer").LinformerSelfAttention
    return layer(of.heads * of.head_dim, of.seq_k, k=k, heads=of.heads, **options)


def local_window(*, width: int, causal: bool = True, exact: bool = True) -> Attend:
    """Return local-attention; where it is exact, each query sees its last `width` keys and its own."""
    made: Attend = imported("local_attention").LocalAttention(
        window_size=width, exact_windowsize=exact, causal=causal, use_rotary_pos_emb=False
    )
    return made


def shen_full() -> Attend:
    """Return linear-attention-transformer's full form, with its softmax features."""
    attend: Attend = imported("linear_attention_transformer.linear_attention_transformer").linear_attn
    return attend


def fla_causal() -> Attend:
    """Return flash-linear-attention's naive chunks, which run on a CPU, with elu + 1 and the normaliser."""
    naive = imported("fla.ops.linear_attn.naive").naive_chunk_linear_attn

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = elu(q).add(1).transpose(1, 2), elu(k).add(1).transpose(1, 2), v.transpose(1, 2)
        out: torch.Tensor = naive(q, k, v, normalize=True).transpose(1, 2)
        return out

    return attend
