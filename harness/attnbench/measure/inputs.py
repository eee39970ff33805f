"""A mechanism's inputs, drawn from the case's seed: queries, keys and values, or tokens."""

# B batch, H heads, G key/value heads, T queries, S keys, N positions (T or S), D head dimension, E width (H * D),
# F features (D or E), Z centres of all heads
import math
from collections.abc import Sequence

import torch
from msgspec import Struct

from attnbench.contracts.case import Case, Level, seed_for

Sizes = Sequence[tuple[int, ...]]

_NOISE_SHARE = 0.25  # of a clustered vector's variance; the rest is its centre's
_OUTLIER_SIZE = 10.0
_FEATURES_PER_OUTLIER: dict[Level, int] = {"core": 32, "layer": 512}


class Inputs(Struct, frozen=True, kw_only=True):
    """Queries, keys, values, and the cotangent of the output, from which a backward pass starts."""

    q_BHTD: torch.Tensor
    k_BGSD: torch.Tensor
    v_BGSD: torch.Tensor
    cotangent: torch.Tensor  # BHTD

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The arguments of the mechanism's call."""
        return self.q_BHTD, self.k_BGSD, self.v_BGSD

    @property
    def tied(self) -> bool:
        """Whether queries and keys are one tensor, with one gradient."""
        return self.k_BGSD is self.q_BHTD

    @property
    def leaves(self) -> dict[str, torch.Tensor]:
        """The tensors with a gradient of their own, by name: q, k and v, or q and v where queries and keys are tied."""
        k = {} if self.tied else {"k": self.k_BGSD}
        return {"q": self.q_BHTD, **k, "v": self.v_BGSD}

    @property
    def history(self) -> tuple[torch.Tensor, ...]:
        """The arguments of `prefill`: keys and values of all positions but the last."""
        return self.k_BGSD[:, :, :-1], self.v_BGSD[:, :, :-1]

    @property
    def newest(self) -> tuple[torch.Tensor, ...]:
        """The arguments of `step` before the state: the query, and the last key with its value."""
        return self.q_BHTD, self.k_BGSD[:, :, -1:].contiguous(), self.v_BGSD[:, :, -1:].contiguous()

    def widened(self) -> "Inputs":
        """Return the same numbers in float64; tied queries and keys stay one tensor."""
        q, v, cotangent = (_wide(tensor) for tensor in (self.q_BHTD, self.v_BGSD, self.cotangent))
        return Inputs(q_BHTD=q, k_BGSD=q if self.tied else _wide(self.k_BGSD), v_BGSD=v, cotangent=cotangent)


class Tokens(Struct, frozen=True, kw_only=True):
    """Tokens x of the queries, tokens y of keys and values unless they are x too, and the cotangent.

    In decoding x is the last token, and y all tokens up to it.
    """

    x_BTE: torch.Tensor
    y_BSE: torch.Tensor | None
    cotangent: torch.Tensor  # BTE

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The arguments of the layer's call: x, and y where keys and values come from other tokens."""
        return (self.x_BTE,) if self.y_BSE is None else (self.x_BTE, self.y_BSE)

    @property
    def sources(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens that queries are projected from, and those that keys and values are."""
        return self.x_BTE, self.x_BTE if self.y_BSE is None else self.y_BSE

    @property
    def leaves(self) -> dict[str, torch.Tensor]:
        """The tensors with a gradient, by name."""
        return dict(zip("xy", self.tensors, strict=False))

    @property
    def history(self) -> tuple[torch.Tensor, ...]:
        """The arguments of `prefill`: all tokens but the last."""
        return (self.sources[1][:, :-1],)

    @property
    def newest(self) -> tuple[torch.Tensor, ...]:
        """The arguments of `step` before the state: the last token."""
        return (self.x_BTE,)

    def widened(self) -> "Tokens":
        """Return the same numbers in float64."""
        y = None if self.y_BSE is None else _wide(self.y_BSE)
        return Tokens(x_BTE=_wide(self.x_BTE), y_BSE=y, cotangent=_wide(self.cotangent))


def draw(case: Case, *, sets: int, tied: bool = False) -> tuple[Inputs, ...]:
    """Draw sets of queries, keys and values: the same numbers on every device, in every dtype, for every variant.

    Values and cotangents are standard normals; queries and keys follow `case.inputs`:

    - normal: standard normals.
    - clustered: in groups, as the vectors of a trained head are (Vyas et al. 2020, "Fast Transformers with Clustered
      Attention"; Roy et al. 2020, section 4). Each key/value head of each sequence has ceil(sqrt(S)) centres, drawn as
      standard normals. Each key, and each query of the heads that share it, is sqrt(3/4) of a random centre plus
      sqrt(1/4) of a standard normal: variance 1, and a mean score of 3/4 sqrt(D) within a group.
    - outliers: standard normals, with 10 or -10 added to D / 32 features of each key/value head (at least one), the
      same for all keys and for all queries of the heads that share it. A trained transformer's largest features are
      few, the same for all tokens and of one sign (Dettmers et al. 2022, "LLM.int8()", section 4); keys have them and
      values do not (Liu et al. 2024, "KIVI", section 3). They add nearly the same to the scores of all keys, which
      softmax cancels; rounding and other feature maps do not.

    With `tied`, keys are the queries themselves. Later sets are the first one's numbers in other positions, as drawing
    takes longer than many a call.
    """
    shape = case.shape
    queries = (shape.batch, shape.heads, shape.seq_q, shape.head_dim)
    keys = (shape.batch, shape.kv_heads, shape.seq_k, shape.head_dim)
    drawn = []
    for index, (q, k, v, *grads) in enumerate(_normals(case, (queries, keys, keys), sets=sets)):
        q_BHTD, k_BGSD = (_placed(tensor, case) for tensor in _formed([q, k], case, index))
        v_BGSD, cotangent = _placed(v, case), _cotangent(grads, q_BHTD)
        drawn.append(Inputs(q_BHTD=q_BHTD, k_BGSD=q_BHTD if tied else k_BGSD, v_BGSD=v_BGSD, cotangent=cotangent))
    return tuple(drawn)


def draw_tokens(case: Case, *, sets: int) -> tuple[Tokens, ...]:
    """Draw sets of tokens as `draw` does; here the tokens are clustered, or have E / 512 outlier features.

    With as many queries as keys, tokens attend to one another, else to tokens of a second sequence; in decoding the
    last of S tokens attends to all of them.
    """
    shape, width = case.shape, case.shape.heads * case.shape.head_dim
    decodes = case.passes == "decode"
    lengths = [shape.seq_k] if decodes or shape.seq_q == shape.seq_k else [shape.seq_q, shape.seq_k]
    drawn = []
    for index, normals in enumerate(_normals(case, [(shape.batch, 1, length, width) for length in lengths], sets=sets)):
        tokens = _formed(normals[: len(lengths)], case, index)
        x, *others = (_placed(tensor.squeeze(1), case) for tensor in tokens)
        cotangent = _cotangent([grad.squeeze(1) for grad in normals[len(lengths) :]], x)
        if decodes:
            x, others = x[:, -1:].clone(), [x]
        drawn.append(Tokens(x_BTE=x, y_BSE=others[0] if others else None, cotangent=cotangent))
    return tuple(drawn)


def _normals(case: Case, sizes: Sizes, *, sets: int) -> list[list[torch.Tensor]]:
    """Draw tensors of standard normals for each set, the last a cotangent of the first's size if the pass needs one.

    All are cut from one pool, rotated by an equal share for each further set: queries, keys and values of equal size
    exchange their roles. Every second set has the other signs, so that no sum or mean is that of the set before.
    """
    all_sizes = [*sizes, sizes[0]] if case.differentiates else [*sizes]
    counts = [math.prod(size) for size in all_sizes]
    # A stream of their own: with the bare seed, the queries would equal the weights that a mechanism draws from it.
    pool = torch.randn(sum(counts), generator=torch.Generator().manual_seed(seed_for(case.seed, "inputs")))
    rotated = (pool.roll(index * len(pool) // sets).mul_((-1) ** index) if index else pool for index in range(sets))
    return [[part.reshape(size) for part, size in zip(one.split(counts), all_sizes, strict=True)] for one in rotated]


def _formed(normals: list[torch.Tensor], case: Case, index: int) -> list[torch.Tensor]:
    """Transform normals_BHNF as `case.inputs` says; the last tensor has the key/value heads that the others share."""
    generator = torch.Generator().manual_seed(seed_for(case.seed, case.inputs, index))
    match case.inputs:
        case "normal":
            return normals
        case "clustered":
            return _clustered(normals, generator)
        case _:
            return _with_outliers(normals, generator, per_outlier=_FEATURES_PER_OUTLIER[case.level])


def _clustered(normals: list[torch.Tensor], generator: torch.Generator) -> list[torch.Tensor]:
    batch, groups, keys, features = normals[-1].shape
    centres_ZF = torch.randn(batch * groups * _ceil_sqrt(keys), features, generator=generator)
    return [_gathered(normal, centres_ZF, groups, generator) for normal in normals]


def _gathered(
    normal_BHNF: torch.Tensor, centres_ZF: torch.Tensor, groups: int, generator: torch.Generator
) -> torch.Tensor:
    """Move each vector to a random centre of its sequence and key/value head."""
    batch, heads, length, _ = normal_BHNF.shape
    count = len(centres_ZF) // (batch * groups)
    first_BH = torch.arange(batch * groups).view(batch, groups).repeat_interleave(heads // groups, dim=1) * count
    chosen_BHN = torch.randint(count, (batch, heads, length), generator=generator) + first_BH[:, :, None]
    near_BHNF = centres_ZF.index_select(0, chosen_BHN.flatten()).view_as(normal_BHNF)
    return near_BHNF.mul_(math.sqrt(1 - _NOISE_SHARE)).add_(normal_BHNF * math.sqrt(_NOISE_SHARE))


def _with_outliers(normals: list[torch.Tensor], generator: torch.Generator, *, per_outlier: int) -> list[torch.Tensor]:
    _, groups, _, features = normals[-1].shape
    count = max(1, features // per_outlier)
    large_GC = torch.rand(groups, features, generator=generator).argsort(dim=1)[:, :count]
    sizes_GC = (2.0 * torch.randint(2, (groups, count), generator=generator) - 1) * _OUTLIER_SIZE
    added_GF = torch.zeros(groups, features).scatter_(1, large_GC, sizes_GC)
    return [
        normal_BHNF + added_GF.repeat_interleave(normal_BHNF.shape[1] // groups, dim=0)[:, None]
        for normal_BHNF in normals
    ]


def _placed(tensor: torch.Tensor, case: Case) -> torch.Tensor:
    """Return a copy on the case's device, rounded to its dtype: every dtype starts from the same numbers."""
    placed = tensor.to(device=case.device, dtype=getattr(torch, case.dtype), copy=True)
    return placed.requires_grad_(case.differentiates)


def _cotangent(grads: list[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    return grads[0].to(like, copy=True) if grads else torch.zeros_like(like[:0])


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().double().requires_grad_(tensor.requires_grad)


def _ceil_sqrt(count: int) -> int:
    return math.isqrt(count - 1) + 1
