"""Published implementations of mechanisms, and ours, as calls on one workload: what the speed table compares."""

# B batch, H heads, N tokens, D head dimension, E width (H * D)
import warnings
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import elu, scaled_dot_product_attention

from attnbench import Attention, Case, Mask, Shape
from attnbench.measure.layer import Layer
from attnbench.registry import find, load
from attnbench.variant import build, complete_options

HEADS, DIM = 8, 64
Call = Callable[[], object]


class Inputs:
    """Queries, keys and values [1, H, N, D], tokens [1, N, E], and what a gradient starts from, drawn once."""

    def __init__(self, tokens: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.q, self.k, self.v, self.cotangent = (
            torch.randn(1, HEADS, tokens, DIM, generator=generator) for _ in range(4)
        )
        self.x = torch.randn(1, tokens, HEADS * DIM, generator=generator)

    @property
    def qkv(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.q, self.k, self.v


def case(name: str, tokens: int, *, causal: bool = False, passes: str = "forward", **options: object) -> Case:
    complete = msgspec.structs.asdict(complete_options(plugin(name), options))
    shape = Shape(batch=1, heads=HEADS, kv_heads=HEADS, seq_q=tokens, seq_k=tokens, head_dim=DIM)
    return Case(variant=name, options=complete, shape=shape, mask=Mask(causal=causal), passes=passes)  # type: ignore[arg-type]


def plugin(name: str) -> Any:
    return load(find(name, "variants", flag="").target)


def ours(of: Case) -> Attention:
    return build(plugin(of.variant), of)


def layer(of: Case) -> Layer:
    return Layer(of, ours(of), tied=False)


def forward(attend: Callable[..., Any], *inputs: torch.Tensor) -> Call:
    """Call without gradients."""

    def call() -> object:
        with torch.no_grad():
            return attend(*inputs)

    return call


def both_passes(attend: Callable[..., Any], cotangent: torch.Tensor, *inputs: torch.Tensor) -> Call:
    """Call, and differentiate for every input, one that stands for two once."""
    leaves = {id(x): x.detach().clone().requires_grad_() for x in inputs}

    def call() -> object:
        out = attend(*(leaves[id(x)] for x in inputs))
        return torch.autograd.grad(out, list(leaves.values()), cotangent.reshape(out.shape))

    return call


def sdpa(*, causal: bool = False) -> Callable[..., Any]:
    return lambda q, k, v: scaled_dot_product_attention(q, k, v, is_causal=causal)


def sdpa_math(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    with sdpa_kernel(SDPBackend.MATH):
        return scaled_dot_product_attention(q, k, v)


def flex_window(tokens: int, *, width: int) -> Callable[..., Any]:
    """Give FlexAttention, compiled, with a causal window."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def sees(_b: Any, _h: Any, i: Any, j: Any) -> Any:
        return (j <= i) & (i - j < width)

    mask = create_block_mask(sees, None, None, tokens, tokens, device="cpu")
    compiled = torch.compile(flex_attention)
    return lambda q, k, v: compiled(q, k, v, block_mask=mask)


def reformer_pytorch(tokens: int, *, causal: bool = False) -> Callable[..., Any]:
    del tokens
    peer = imported("reformer_pytorch").LSHAttention(bucket_size=64, n_hashes=4, causal=causal)
    return lambda qk, v: peer(qk.flatten(0, 1), v.flatten(0, 1))[0]


def transformers_lsh(tokens: int) -> Callable[..., Any]:
    """Give transformers' LSH attention without its projections: what it does between them and the merged heads."""
    reformer = imported("transformers.models.reformer.modeling_reformer")
    config = imported("transformers").ReformerConfig(
        hidden_size=HEADS * DIM, num_attention_heads=HEADS, attention_head_size=DIM, num_hashes=4, is_decoder=False,
        num_buckets=tokens // 64, lsh_attn_chunk_length=64, lsh_attention_probs_dropout_prob=0.0, hash_seed=0,
    )  # fmt: skip
    peer = reformer.LSHSelfAttention(config)
    del peer.query_key, peer.value
    peer.query_key = peer.value = torch.nn.Identity()
    return lambda qk, v: peer_between(peer, qk, v)


def peer_between(peer: Any, qk: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Hand over heads where the peer would project tokens to them."""
    joined = iter([qk.transpose(1, 2).flatten(2), v.transpose(1, 2).flatten(2)])
    peer.query_key.forward = peer.value.forward = lambda _x: next(joined)
    out: torch.Tensor = peer(qk.transpose(1, 2).flatten(2), buckets=None).hidden_states
    return out


def linformer_layer(tokens: int) -> Callable[..., Any]:
    made: Callable[..., Any] = imported("linformer").LinformerSelfAttention(HEADS * DIM, tokens, k=256, heads=HEADS)
    return made


def local_window(*, width: int) -> Callable[..., Any]:
    """Give local-attention with the window that it can make exact: each query its last `width` keys, and its own."""
    window = {"window_size": width, "exact_windowsize": True}
    made: Callable[..., Any] = imported("local_attention").LocalAttention(
        **window, causal=True, use_rotary_pos_emb=False
    )
    return made


def shen_full() -> Callable[..., Any]:
    """Give linear-attention-transformer's full form, with its softmax features."""
    attend: Callable[..., Any] = imported("linear_attention_transformer.linear_attention_transformer").linear_attn
    return attend


def fla_causal() -> Callable[..., Any]:
    """Give flash-linear-attention's naive chunks, which run on a CPU, with elu + 1 and the normaliser."""
    naive = imported("fla.ops.linear_attn.naive").naive_chunk_linear_attn

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = elu(q).add(1).transpose(1, 2), elu(k).add(1).transpose(1, 2), v.transpose(1, 2)
        out: torch.Tensor = naive(q, k, v, normalize=True).transpose(1, 2)
        return out

    return attend


def imported(name: str) -> Any:
    """Import a published package, or skip the row: `pip install attnbench[peers]` brings all of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, exc_type=ImportError)
