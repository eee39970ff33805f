"""Multi-head latent attention, a token and head at a time (DeepSeek-AI 2024, equations 37 to 47)."""

import torch
from torch import Tensor

from attnbench import Case


def attend(layer: torch.nn.Module, x: Tensor, case: Case) -> Tensor:
    """Return out_BTE of a built `latent`, from its weights."""
    return torch.stack([_of_sequence(layer, tokens, case) for tokens in x])


def _of_sequence(layer: torch.nn.Module, x: Tensor, case: Case) -> Tensor:
    heads, dim, rotary = layer.heads, layer.dim, layer.rotary
    rank = layer.up_k.shape[1]
    latents = [_unit(layer.down[:rank] @ token) for token in x]
    turned = [_turn(layer.down[rank:] @ token, i) for i, token in enumerate(x)]
    rows = []
    for i, token in enumerate(x):
        query = token if layer.down_q is None else _unit(layer.down_q @ token)
        seen = range(i + 1 if case.mask.causal else len(x))
        out = []
        for h in range(heads):
            mine = slice(h * dim, (h + 1) * dim)
            q = layer.up_q[h * (dim + rotary) : (h + 1) * (dim + rotary)] @ query
            plain, q_turned = q[:dim], _turn(q[dim:], i)
            scores = [plain @ (layer.up_k[mine] @ latents[j]) + q_turned @ turned[j] for j in seen]
            weights = (torch.stack(scores) / (dim + rotary) ** 0.5).softmax(0)
            out.append(sum(w * (layer.up_v[mine] @ latents[j]) for w, j in zip(weights, seen, strict=True)))
        rows.append(layer.out @ torch.cat(out))
    return torch.stack(rows)


def _unit(x: Tensor) -> Tensor:
    return x / (x.pow(2).mean() + 1e-6).sqrt()


def _turn(x: Tensor, position: int) -> Tensor:
    pairs = len(x) // 2
    turned = torch.zeros_like(x)
    for p in range(pairs):
        angle = torch.tensor(position * 10_000.0 ** (-p / pairs), dtype=x.dtype)
        turned = turned + torch.nn.functional.one_hot(torch.tensor(p), len(x)) * (
            x[p] * angle.cos() - x[p + pairs] * angle.sin()
        )
        turned = turned + torch.nn.functional.one_hot(torch.tensor(p + pairs), len(x)) * (
            x[p + pairs] * angle.cos() + x[p] * angle.sin()
        )
    return turned
