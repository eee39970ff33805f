"""Linformer: keys and values are projected along the sequence to a fixed number of rows.

Wang et al. 2020, "Linformer: Self-Attention with Linear Complexity", eq. 7:

    out = softmax(q (E k)^T / sqrt(D)) (F v)                    E, F [K, S], learned; q [T, D], k, v [S, D]

E and F start as in the authors' code: Xavier uniform with gain 1/sqrt(2), drawn from the case's seed. With K equal to
the number of keys and E = F = identity it is exact attention; a K above it costs more and gives nothing. Between
projections the sequence is projected before the heads where that is less work: E (y Wk) = (E y) Wk. Time: O((T + S) K
D); memory: O(T + S). No causal form, window or decoding: each projected row mixes keys of the whole sequence.
"""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension, E width (H * D), K = columns that the S
# keys become

import math
from typing import Annotated, ClassVar, Literal

import msgspec
import torch
from msgspec import Meta

from attnbench import Case, Projections, Support, Tune, Unsupported
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.flop_counts import executed
from attnbench_variants.blocks.fused_kernels import Fused
from attnbench_variants.blocks.weights import generator, learned, uniform

_ONE_MATRIX = ("key-value", "layerwise")


class Linformer(torch.nn.Module):
    """Linformer: softmax(q (E k)^T / sqrt(D)) (F v), with learned E and F of k rows (Wang et al. 2020, eq. 7)."""

    class Options(BaseOptions, frozen=True, kw_only=True):
        """The paper's levels of sharing (section 4, "Additional Efficiency Techniques"); k is one for all layers."""

        k: Annotated[int, Meta(ge=1, description="columns that keys and values are projected to")] = 256
        sharing: Annotated[
            Literal["headwise", "key-value", "layerwise", "none"],
            Meta(
                description="one E and one F for all heads (headwise, as in the authors' code), one matrix for both "
                "(key-value), the same in all layers of a model (layerwise), or a pair for each key/value head (none)"
            ),
        ] = "headwise"

    tunes: ClassVar = {"k": Tune("16..2048")}
    supports = Support(
        causal="each projected column mixes keys of the whole sequence, later ones too: Linformer is an encoder",
        window="each projected column mixes keys of the whole sequence, so that none can be left out",
        grouped=True,
        growth=1,
        spans=("k",),
    )

    def __init__(self, case: Case, options: Options) -> None:
        super().__init__()
        if case.passes == "decode":
            raise Unsupported("decoding is causal, and each projected column mixes keys of the whole sequence")
        heads, draws = (case.shape.kv_heads,) if options.sharing == "none" else (), generator(case)
        size, bound = (*heads, options.k, case.shape.seq_k), (0.5 * 6 / (options.k + case.shape.seq_k)) ** 0.5
        self.project_keys = self.project_values = learned(case, uniform(*size, bound=bound, generator=draws))
        if options.sharing not in _ONE_MATRIX:
            self.project_values = learned(case, uniform(*size, bound=bound, generator=draws))
        self._layerwise = options.sharing == "layerwise"
        self._sequence_first = _sequence_first(case, options)
        self._fused = Fused(case)
        self.backend = self._fused.name

    def forward(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        k_BGKD, v_BGKD = _project(self.project_keys, k_BGSD), _project(self.project_values, v_BGSD)
        return self._fused(q_BHTD, k_BGKD, v_BGKD)

    def share(self, first: "Linformer") -> None:
        """Use the matrix of a model's first layer, where all layers share one."""
        if self._layerwise:
            self.project_keys = self.project_values = first.project_keys

    def from_tokens(self, x_BTE: torch.Tensor, y_BSE: torch.Tensor, projections: Projections) -> torch.Tensor:
        """Attend between projections: out_BHTD."""
        q_BHTD = projections.queries(x_BTE)
        if not self._sequence_first:
            return self.forward(q_BHTD, projections.keys(y_BSE), projections.values(y_BSE))
        for_keys_BKE = for_values_BKE = _project(self.project_keys, y_BSE)
        if self.project_values is not self.project_keys:
            for_values_BKE = _project(self.project_values, y_BSE)
        return self._fused(q_BHTD, projections.keys(for_keys_BKE), projections.values(for_values_BKE))

    @staticmethod
    def reach(case: Case) -> float:
        """Return the projected columns over the keys that they mix."""
        return min(1.0, msgspec.convert(case.options, Linformer.Options).k / case.shape.seq_k)

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: two projections, and queries against k columns."""
        shape, columns = case.shape, msgspec.convert(case.options, Linformer.Options).k
        project = 4 * shape.batch * shape.kv_heads * shape.seq_k * columns * shape.head_dim
        attend = 4 * shape.batch * shape.heads * shape.seq_q * columns * shape.head_dim
        return executed(project, case) + executed(attend, case, scores="recomputed")


def _sequence_first(case: Case, options: Linformer.Options) -> bool:
    """Return whether projecting the sequence first takes fewer multiplications, and is possible: E is not per head.

    Either way two matrices are multiplied by two; only the widths and lengths in between differ.
    """
    shape, columns = case.shape, options.k
    width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    matrices = {"headwise": 2, "none": math.inf}.get(options.sharing, 1)
    sequence_first = matrices * columns * shape.seq_k * width + 2 * columns * width * kv_width
    return sequence_first < 2 * shape.seq_k * width * kv_width + 2 * columns * shape.seq_k * kv_width


def _project(weights: torch.Tensor, x_BGSD: torch.Tensor) -> torch.Tensor:
    # To multiply by what wants a gradient torch copies the keys, even where no gradient will be taken.
    return (weights if torch.is_grad_enabled() else weights.detach()) @ x_BGSD
