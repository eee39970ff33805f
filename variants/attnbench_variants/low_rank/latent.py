"""Multi-head latent attention (MLA): keys and values are made from a small latent a token, which decoding keeps.

DeepSeek-AI 2024, "DeepSeek-V2", section 2.1 and eqs. 37 to 47 of appendix C:

    c_t = norm(W_DKV x_t),  r_t = RoPE(W_KR x_t): a token's latent and its rotary key                c_t [C], r_t [R]
    k_t = [W_UK c_t, r_t],  v_t = W_UV c_t,  q_t = [W_UQ c'_t, RoPE(W_QR c'_t)],  c'_t = x_t or norm(W_DQ x_t)
    out_t = W_O [softmax_s(q_t . k_s / sqrt(D + R)) v_s over all heads]

Of the rotary features a head has its own in the queries and all heads one in the keys (decoupled RoPE). Latents are
RMS-normalised, as the paper has it (section 3.1.2) and its code. Weights are normals of variance 1 / inputs.

In decoding the state is c_t and r_t, C + R numbers for all heads together; the matrices that make keys and values from
latents are absorbed into the query and the output (section 2.1.2), so that none are made. Otherwise keys and values are
made, and `flash`'s kernel attends; values are filled up to the keys' features. Full attention, which the paper has no
use for, sees all tokens. Time: O(T S H (D + R)), and the projections'; memory beyond them: O(T), in decoding O(S (C +
R)). There is no window, cross-attention or grouping of heads.
"""
# B batch, T tokens, S tokens so far, E = H * D width, H heads, D head dimension, C latent features (rank), R rotary
# features, X queries' latent features (rank)

import math
from typing import Annotated

import torch
from msgspec import Meta
from msgspec.structs import replace
from torch.nn.functional import linear, pad, rms_norm

from attnbench import Case, Support, Unsupported
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.dtypes import wide, wide_dtype
from attnbench_variants.blocks.fused_kernels import TORCH
from attnbench_variants.blocks.reach import all_keys
from attnbench_variants.blocks.weights import generator, learned, normal
from attnbench_variants.exact.flash import first_that_runs

# Latents and rotary keys with room for further ones, and the number that is held.
State = tuple[torch.Tensor, torch.Tensor, int]
_ROOM = 256  # tokens for which room is made at a time
_BASE, _EPSILON = 10_000.0, 1e-6


class Latent(torch.nn.Module):
    """Multi-head latent attention (DeepSeek-AI 2024, "DeepSeek-V2", section 2.1 and appendix C, equations 37 to 47)."""

    class Options(BaseOptions, frozen=True, kw_only=True):
        """Sizes; by default in the paper's proportions to the head dimension (512 and 64 for D = 128)."""

        rank: Annotated[
            Annotated[int, Meta(ge=1)] | None,
            Meta(description="features of the keys' and values' latent; by default 4 head dimensions"),
        ] = None
        query_rank: Annotated[
            Annotated[int, Meta(ge=1)] | None,
            Meta(description="features of the queries' latent; by default there is none, as in V2-Lite"),
        ] = None
        rotary: Annotated[
            Annotated[int, Meta(ge=2)] | None,
            Meta(description="rotary features, even; by default half the head dimension"),
        ] = None

    supports = Support(
        level="layer",
        devices=("cpu", "cuda"),
        window="published without one: its state is to hold all earlier tokens",
        cross="queries, keys and values are made from one sequence",
        grouped="all heads share one latent, so that there are no key heads to group",
        growth=1.9,  # the projections, which are linear, are a quarter of all products at 2048 tokens
    )
    reach = staticmethod(all_keys)

    def __init__(self, case: Case, options: Options) -> None:
        super().__init__()
        shape = case.shape
        self.heads, self.dim = shape.heads, shape.head_dim
        self.rotary = options.rotary or max(2, self.dim // 4 * 2)
        if self.rotary % 2:
            raise Unsupported(f"rotary features turn in pairs, and rotary={self.rotary} is odd")
        rank, width = options.rank or 4 * self.dim, self.heads * self.dim
        queries, of_a_head = options.query_rank or width, self.dim + self.rotary
        self._causal = case.mask.causal
        draws = generator(case)

        def weight(outputs: int, inputs: int) -> torch.nn.Parameter:
            return learned(case, normal(outputs, inputs, deviation=inputs**-0.5, generator=draws))

        self.down_q = weight(queries, width) if options.query_rank else None
        self.up_q = weight(self.heads * of_a_head, queries)
        self.down = weight(rank + self.rotary, width)
        self.up_k, self.up_v = weight(width, rank), weight(width, rank)
        self.out = weight(width, width)
        kernel = replace(case, level="core", shape=replace(shape, head_dim=of_a_head))
        self._kernel = first_that_runs(kernel) if case.passes != "decode" else None
        self.backend = self._kernel.name if self._kernel else f"torch-matmul {TORCH}"

    def forward(self, x_BTE: torch.Tensor) -> torch.Tensor:
        """Attend among the tokens: out_BTE."""
        if self._kernel is None:
            raise Unsupported("it was built to decode token by token: call prefill and step")
        latent_BTC, key_BTR = self._compressed(x_BTE, first=0)
        q_BHTF = self._queries(x_BTE, first=0)
        k_BHTD, v_BHTD = (self._split(linear(latent_BTC, up)) for up in (self.up_k, self.up_v))
        k_BHTF = torch.cat([k_BHTD, key_BTR[:, None].expand(-1, self.heads, -1, -1)], dim=-1)
        mixed_BHTF = self._kernel(q_BHTF, k_BHTF, pad(v_BHTD, (0, self.rotary)))
        return linear(mixed_BHTF[..., : self.dim].transpose(1, 2).flatten(2), self.out)

    def prefill(self, x_BSE: torch.Tensor) -> State:
        """Return the latents and rotary keys of all tokens so far, with room for further ones."""
        latent_BSC, key_BSR = self._compressed(x_BSE, first=0)
        return _with_room(latent_BSC), _with_room(key_BSR), x_BSE.shape[1]

    def step(self, x_B1E: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Attend from the next token to all before it and itself: out_B1E, and the state after it."""
        latents, keys, here = state
        if here == latents.shape[1]:
            latents, keys = _with_room(latents), _with_room(keys)
        latents[:, here : here + 1], keys[:, here : here + 1] = self._compressed(x_B1E, first=here)
        latent_BSC, key_BSR = latents[:, : here + 1], keys[:, : here + 1]
        q_BHD, turned_BHR = self._queries(x_B1E, first=here)[:, :, 0].split((self.dim, self.rotary), dim=-1)
        up_k_HDC, up_v_HDC = (up.view(self.heads, self.dim, -1) for up in (self.up_k, self.up_v))
        absorbed_BHC = torch.einsum("bhd,hdc->bhc", q_BHD, up_k_HDC)
        scores_BHS = absorbed_BHC @ latent_BSC.mT + turned_BHR @ key_BSR.mT
        scores_BHS = scores_BHS / math.sqrt(self.dim + self.rotary)
        weights_BHS = torch.softmax(scores_BHS, dim=-1, dtype=wide_dtype(scores_BHS.dtype))
        mixed_BHD = torch.einsum("bhc,hdc->bhd", weights_BHS.to(scores_BHS.dtype) @ latent_BSC, up_v_HDC)
        return linear(mixed_BHD.flatten(1)[:, None], self.out), (latents, keys, here + 1)

    def _compressed(self, x_BTE: torch.Tensor, *, first: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the normalised latents and the rotated rotary keys (equations 41 and 43)."""
        latent_BTC, key_BTR = linear(x_BTE, self.down).split((self.up_k.shape[1], self.rotary), dim=-1)
        return _normalised(latent_BTC), _rotated(key_BTR, first=first)

    def _queries(self, x_BTE: torch.Tensor, *, first: int) -> torch.Tensor:
        """Return the heads' queries, plain features before rotated ones: [B, H, T, D + R] (equations 37 to 40)."""
        latent_BTX = x_BTE if self.down_q is None else _normalised(linear(x_BTE, self.down_q))
        q_BHTD, q_BHTR = self._split(linear(latent_BTX, self.up_q)).split((self.dim, self.rotary), dim=-1)
        return torch.cat([q_BHTD, _rotated(q_BHTR, first=first)], dim=-1)

    def _split(self, x_BTF: torch.Tensor) -> torch.Tensor:
        return x_BTF.view(*x_BTF.shape[:2], self.heads, -1).transpose(1, 2)


def _with_room(x_BSC: torch.Tensor) -> torch.Tensor:
    return pad(x_BSC, (0, 0, 0, _ROOM))


def _normalised(x: torch.Tensor) -> torch.Tensor:
    normalised: torch.Tensor = rms_norm(wide(x), x.shape[-1:], eps=_EPSILON)
    return normalised.to(x.dtype)


def _rotated(x: torch.Tensor, *, first: int) -> torch.Tensor:
    """Rotate the two halves of the features, as pairs, by the angle of their position (Su et al. 2021, RoPE)."""
    tokens, pairs = x.shape[-2], x.shape[-1] // 2
    speed_P = _BASE ** (-torch.arange(pairs, dtype=torch.float64, device=x.device) / pairs)
    angle_TP = torch.arange(first, first + tokens, dtype=torch.float64, device=x.device)[:, None] * speed_P
    cos_TP, sin_TP = angle_TP.cos().to(x.dtype), angle_TP.sin().to(x.dtype)
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * cos_TP - right * sin_TP, right * cos_TP + left * sin_TP], dim=-1)
