"""Long-short attention: the keys near by, and a few landmarks that the distant ones are summed up in."""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension, X = B * H; N segments of C keys, R landmarks
# of each, E = N * R

from collections.abc import Iterator
from typing import Annotated, ClassVar, NamedTuple

import msgspec
import torch
from msgspec import Meta

from attnbench import Case, Support, Tune, Unsupported
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.flop_counts import executed
from attnbench_variants.blocks.grouped_heads import per_query_head
from attnbench_variants.fixed_sparse.window_pattern import Pattern, band, pairs_of
from attnbench_variants.fixed_sparse.windows import Shared, Step, Windows


class LongShort(torch.nn.Module):
    """Transformer-LS (Zhu et al. 2021, "Long-Short Transformer", sections 3.2 to 3.4).

    Long: P = softmax(k W) along the sequence, learned W, makes `rank` landmarks P^T k and P^T v of a sequence. Short:
    positions are cut into segments of `width`; a query sees its own and half as many keys on either side. One softmax
    over both, each layer-normalised by itself, keys and values alike (DualLN). Causal: the last `width` keys, and of
    every `segment` of the sequence before the query's own `rank` landmarks. Queries are the last T positions of the
    keys. Time: O(S (width + rank)), memory O(S). Causal, as in the paper, there are S rank / segment landmarks: a small
    quadratic term, which outweighs the windows above S = 2 width segment / rank, by default 4096.

    Where the paper leaves a choice, or this differs:

    - P comes from a head's own keys; in the paper from the tokens, which a core mechanism is not given.
    - Layer normalisation is over a head's features, as in the paper's equation 6, with gains and shifts for each head.
      The authors' code takes all heads' features together, which would mix heads.
    - Landmarks are made of keys and values before normalisation, as in the equation and the language model's code.
    - The last segments may be short; what is before the first position and after the last is left out of the softmax.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """Long Range Arena: width 8, rank 32; language models: width 512, and rank 1 for a segment of 16.

        The defaults keep the latter's share of one landmark for 16 tokens, and cover with the window what is in no
        landmark yet.
        """

        width: Annotated[
            int, Meta(ge=1, description="positions of a near segment; causal: keys that a query sees, its own included")
        ] = 128
        rank: Annotated[int, Meta(ge=1, description="landmarks of the sequence; causal: of each segment")] = 8
        segment: Annotated[int, Meta(ge=1, description="causal: positions that are summed up together")] = 128

    tunes: ClassVar = {"width": Tune("32..2048"), "rank": Tune("1..64", monotone=False)}
    supports = Support(
        window="it sees landmarks of the whole sequence: set its option width instead", grouped=True, growth=1
    )

    def __init__(self, case: Case, options: Options) -> None:
        super().__init__()
        shape = case.shape
        if shape.seq_q > shape.seq_k:
            raise Unsupported("its queries are the last positions of the keys: there cannot be more of them than keys")
        self.project = torch.nn.Parameter(_projection(case, options.rank))
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
        """Average keys and values of each segment by P, R times each: k_BGED, v_BGED (equation 5)."""
        number, length, _ = self._segments
        k_BGNCD, v_BGNCD = (x[:, :, : number * length].unflatten(2, (number, length)) for x in (k_BGSD, v_BGSD))
        scores_BGNRC = self.project[:, None].mT @ k_BGNCD.mT
        wide = torch.promote_types(scores_BGNRC.dtype, torch.float32)
        share_BGNRC = scores_BGNRC.softmax(dim=-1, dtype=wide).to(k_BGSD.dtype)
        return ((share_BGNRC @ x).flatten(2, 3) for x in (k_BGNCD, v_BGNCD))


class _Norms(torch.nn.Module):
    """Layer normalisation over a head's features, with a gain and a shift for each key/value head's features."""

    def __init__(self, groups: int, dim: int) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(groups, 1, dim))
        self.shift = torch.nn.Parameter(torch.zeros(groups, 1, dim))

    def forward(self, x_BGSD: torch.Tensor) -> torch.Tensor:
        """Normalise: x_BGSD."""
        normal_BGSD = torch.nn.functional.layer_norm(x_BGSD, x_BGSD.shape[-1:])
        return torch.addcmul(self.shift, normal_BGSD, self.gain).to(x_BGSD.dtype)


class _Segments(NamedTuple):
    """How many segments have landmarks, of how many positions each, and which queries see how many landmarks."""

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


def _pattern(case: Case, options: LongShort.Options) -> Pattern:
    if case.mask.causal:
        return band(before=min(options.width, case.shape.seq_k) - 1, after=0)
    margin = options.width // 2
    return Pattern(options.width, lead=margin, shown=options.width + 2 * margin)


def _projection(case: Case, rank: int) -> torch.Tensor:
    """Draw W_GDR as a linear layer's, on the CPU in float64, so that every device and dtype has the same one."""
    generator, bound = torch.Generator().manual_seed(case.seed), case.shape.head_dim**-0.5
    drawn = torch.empty(case.shape.kv_heads, case.shape.head_dim, rank, dtype=torch.float64)
    drawn.uniform_(-bound, bound, generator=generator)
    return drawn.to(getattr(torch, case.dtype)).to(case.device)
