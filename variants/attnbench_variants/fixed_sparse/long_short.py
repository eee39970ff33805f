"""Long-short attention: the keys near by, and a few landmarks that sum up the distant ones.

Zhu et al. 2021, "Long-Short Transformer" (Transformer-LS), sections 3.2 to 3.4:

    P = softmax_S(k W),   k' = P^T k,  v' = P^T v: landmarks                W [D, R], learned; k', v' [R, D]
    out_i = softmax over both [N(k_j), N'(k')] of q_i . () / sqrt(D), times [N(v_j), N'(v')]       (DualLN)

where j runs over the query's own segment of `width` positions and half as many on either side, and N and N' are layer
normalisations of keys and values alike. Causal: the last `width` keys, and the R landmarks of every `segment` of the
sequence before the query's own. Queries are the last T positions of the keys.

Time: O(S (width + R) D); memory: O(S D). Causal, as in the paper, there are S R / segment landmarks: a small quadratic
term, which outweighs the windows above S = 2 width segment / R, by default 4096.

Where the paper leaves a choice, or this differs:

- P comes from a head's own keys; in the paper from the tokens, which a core mechanism is not given.
- Layer normalisation is over a head's features, as in the paper's equation 6, with gains and shifts for each head. The
  authors' code takes all heads' features together, which would mix heads.
- Landmarks are made of keys and values before normalisation, as in the equation and the language model's code.
- The last segments may be short; what is before the first position and after the last is left out of the softmax.
"""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension, X = B * H; N segments of C keys, R landmarks
# of each, E = N * R

from collections.abc import Iterator
from typing import Annotated, ClassVar, NamedTuple

import msgspec
import torch
from msgspec import Meta

from attnbench import Case, Support, Tune
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.dtypes import wide_dtype
from attnbench_variants.blocks.flop_counts import executed
from attnbench_variants.blocks.grouped_heads import per_query_head
from attnbench_variants.blocks.masks import require_queries_last
from attnbench_variants.blocks.reach import share_seen
from attnbench_variants.blocks.weights import generator, learned, undecayed, uniform
from attnbench_variants.fixed_sparse.window_pattern import WindowPattern, band, pairs_of
from attnbench_variants.fixed_sparse.windows import Shared, Step, Windows


class LongShort(torch.nn.Module):
    """Transformer-LS (Zhu et al. 2021, "Long-Short Transformer", sections 3.2 to 3.4)."""

    class Options(BaseOptions, frozen=True, kw_only=True):
        """Long Range Arena: width 8, rank 32; language models: width 512, and rank 1 for a segment of 16.

        The defaults keep the latter's one landmark for 16 tokens; the window covers what no landmark sums up yet.
        """

        width: Annotated[
            int, Meta(ge=1, description="positions of a near segment; causal: keys that a query sees, its own included")
        ] = 128
        rank: Annotated[int, Meta(ge=1, description="landmarks of the sequence; causal: of each segment")] = 8
        segment: Annotated[int, Meta(ge=1, description="causal: positions that are summed up together")] = 128

    tunes: ClassVar = {"width": Tune("32..2048"), "rank": Tune("1..64", monotone=False)}
    supports = Support(
        window="it sees landmarks of the whole sequence: set its option width instead",
        grouped=True,
        growth=1,
        spans=("width", "rank", "segment"),
    )

    def __init__(self, case: Case, options: Options) -> None:
        super().__init__()
        require_queries_last(case)
        shape, bound = case.shape, case.shape.head_dim**-0.5
        size = shape.kv_heads, shape.head_dim, options.rank
        self.project = learned(case, uniform(*size, bound=bound, generator=generator(case)))  # as a linear layer's
        self.near, self.far = (_Norms(shape.kv_heads, shape.head_dim) for _ in range(2))
        self._segments = _segments(case, options)
        like = torch.empty(0, dtype=getattr(torch, case.dtype), device=case.device)
        self._windows = Windows(_pattern(case, options), queries=shape.seq_q, keys=shape.seq_k, like=like)
        self.backend = self._windows.kernel.name

    def forward(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        heads = q_BHTD.shape[1]
        near, far = map(self.near, (k_BGSD, v_BGSD)), map(self.far, self._landmarks(k_BGSD, v_BGSD))
        k_XSD, v_XSD, k_XED, v_XED = (per_query_head(x, heads).flatten(0, 1) for x in (*near, *far))
        shared = Shared(k_XED, v_XED, self._segments.steps)
        return self._windows(q_BHTD.flatten(0, 1), k_XSD, v_XSD, shared=shared).view(q_BHTD.shape)

    @staticmethod
    def reach(case: Case) -> float:
        """Return the share of the visible keys near a query, and of landmarks, each as one key."""
        options = msgspec.convert(case.options, LongShort.Options)
        width, rank, segment = options.width, options.rank, options.segment
        if case.mask.causal:
            return share_seen(case, lambda i, j: i - j < width, further=lambda i: i // segment * rank)
        margin = width // 2
        return share_seen(
            case,
            lambda i, j: (j >= i // width * width - margin) & (j < (i // width + 1) * width + margin),
            further=rank,
        )

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: landmarks made, and every key that a query is shown."""
        shape, options = case.shape, msgspec.convert(case.options, LongShort.Options)
        segments = _segments(case, options)
        summed = segments.number * segments.length
        make = 6 * shape.batch * shape.kv_heads * summed * options.rank * shape.head_dim
        pairs = pairs_of(_pattern(case, options), queries=shape.seq_q, keys=shape.seq_k)
        pairs += sum((step.rows.stop - step.rows.start) * step.keys for step in segments.steps)
        attend = 4 * shape.batch * shape.heads * pairs * shape.head_dim
        return executed(make, case) + executed(attend, case, scores="recomputed")

    def _landmarks(self, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> Iterator[torch.Tensor]:
        """Return the R landmarks of each segment's keys and values: k_BGED, v_BGED (equation 5)."""
        number, length, _ = self._segments
        k_BGNCD, v_BGNCD = (x[:, :, : number * length].unflatten(2, (number, length)) for x in (k_BGSD, v_BGSD))
        scores_BGNRC = self.project[:, None].mT @ k_BGNCD.mT
        share_BGNRC = scores_BGNRC.softmax(dim=-1, dtype=wide_dtype(scores_BGNRC.dtype)).to(k_BGSD.dtype)
        return ((share_BGNRC @ x).flatten(2, 3) for x in (k_BGNCD, v_BGNCD))


class _Norms(torch.nn.Module):
    """Layer normalisation over a head's features, with a gain and a shift for each key/value head's features."""

    def __init__(self, groups: int, dim: int) -> None:
        super().__init__()
        self.gain = undecayed(torch.nn.Parameter(torch.ones(groups, 1, dim)))
        self.shift = undecayed(torch.nn.Parameter(torch.zeros(groups, 1, dim)))

    def forward(self, x_BGSD: torch.Tensor) -> torch.Tensor:
        """Normalise: x_BGSD."""
        normal_BGSD = torch.nn.functional.layer_norm(x_BGSD, x_BGSD.shape[-1:])
        return torch.addcmul(self.shift, normal_BGSD, self.gain).to(x_BGSD.dtype)


class _Segments(NamedTuple):
    """The number of segments with landmarks, their length, and the landmarks that each of the queries see."""

    number: int
    length: int
    steps: list[Step]


def _segments(case: Case, options: LongShort.Options) -> _Segments:
    queries, keys = case.shape.seq_q, case.shape.seq_k
    if not case.mask.causal:
        return _Segments(1, keys, [Step(slice(0, queries), options.rank)])
    length, before = options.segment, keys - queries
    last = (keys - 1) // length
    steps = []
    for own in range(max(1, before // length), last + 1):
        rows = slice(max(0, own * length - before), min(queries, (own + 1) * length - before))
        steps.append(Step(rows, own * options.rank))
    return _Segments(last, length, steps)


def _pattern(case: Case, options: LongShort.Options) -> WindowPattern:
    if case.mask.causal:
        return band(before=min(options.width, case.shape.seq_k) - 1, after=0)
    margin = options.width // 2
    return WindowPattern(options.width, lead=margin, shown=options.width + 2 * margin)
