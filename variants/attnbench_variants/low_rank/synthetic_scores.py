"""The four forms of a Synthesizer's scores: made of a token by itself, or of its position alone."""
# H heads, B batch, T queries, S keys, D head dimension, X = D + 1, C queries of a run, U keys that a run is shown,
# R rows of a matrix and W columns; K rank, A and P factors: A * P is S or a little more

import math

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.nn.functional import pad, relu

from attnbench import Case


class Dense(Module):
    """A token's scores from its query: W2 relu(q + b1) + b2, where q is W1 x, the first layer's product."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        weights = _Weights(case)
        self.first_bias_HD = weights.zeros(case.shape.head_dim)
        self.second_HSD, self.second_bias_HS = weights.layer(case.shape.seq_k)

    def forward(self, q_BHTD: Tensor) -> tuple[Tensor, Tensor]:
        """Return q_BHTX and k_HSX whose products are the scores: features and a one, weights and bias."""
        q_BHTX = pad(relu(q_BHTD + self.first_bias_HD[:, None]), (0, 1), value=1.0)
        return q_BHTX, torch.cat([self.second_HSD, self.second_bias_HS[..., None]], dim=-1)


class FactorizedDense(Module):
    """A + P numbers from a token's query, made as `Dense` makes scores; a score is the product of two of them.

    Key s has number s // P of the first A and s % P of the last P.
    """

    def __init__(self, case: Case) -> None:
        super().__init__()
        weights = _Weights(case)
        outer, inner = factors(case.shape.seq_k)
        self.first_bias_HD = weights.zeros(case.shape.head_dim)
        self.outer_HAD, self.outer_bias_HA = weights.layer(outer)
        self.inner_HPD, self.inner_bias_HP = weights.layer(inner)

    def forward(self, q_HBCD: Tensor, run: slice, seen: int) -> Tensor:
        """Return scores_HBCU."""
        del run
        hidden_HBCD = relu(q_HBCD + self.first_bias_HD[:, None, None])
        outer_HBCA = _affine(hidden_HBCD, self.outer_HAD, self.outer_bias_HA)
        inner_HBCP = _affine(hidden_HBCD, self.inner_HPD, self.inner_bias_HP)
        return (outer_HBCA[..., None] * inner_HBCP[..., None, :]).flatten(3)[..., :seen]


class Random(Module):
    """A learned score for every pair of positions."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        keys = case.shape.seq_k
        self.scores_HTS = _Weights(case).of_queries(keys, fans=2 * keys)

    def forward(self, q_HBCD: Tensor, run: slice, seen: int) -> Tensor:
        """Return scores_H1CU."""
        del q_HBCD
        return self.scores_HTS[:, None, run, :seen]


class FactorizedRandom(Module):
    """K learned numbers for every position as a query and as a key; their products are the scores."""

    def __init__(self, case: Case, rank: int) -> None:
        super().__init__()
        keys, weights = case.shape.seq_k, _Weights(case)
        self.keys_HSK = weights.matrix(keys, rank)
        self.queries_HTK = weights.of_queries(rank, fans=keys + rank)

    def forward(self, q_HBCD: Tensor, run: slice, seen: int) -> Tensor:
        """Return scores_H1CU."""
        del q_HBCD
        return (self.queries_HTK[:, run] @ self.keys_HSK[:, :seen].mT)[:, None]


def factors(keys: int) -> tuple[int, int]:
    """Return A and P near the square root of the number of keys, with the least A * P that holds them all."""
    inner = math.isqrt(keys - 1) + 1
    return -(-keys // inner), inner


class _Weights:
    """Draws a case's weights in float64 on the CPU, so that every device and dtype has the same ones within rounding.

    Matrices are uniform as those of Glorot and Bengio 2010, eq. 16, each head's by itself; biases are zero.
    """

    def __init__(self, case: Case) -> None:
        self._shape = case.shape
        self._generator = torch.Generator().manual_seed(case.seed)
        self._placed = {"dtype": getattr(torch, case.dtype), "device": case.device}

    def layer(self, features: int) -> tuple[Parameter, Parameter]:
        """Return the matrix [H, features, D] and the bias [H, features] of a layer."""
        return self.matrix(features, self._shape.head_dim), self.zeros(features)

    def matrix(self, rows: int, columns: int) -> Parameter:
        """Draw a matrix_HRW."""
        drawn_HRW = self._uniform(rows, columns, fans=rows + columns)
        return Parameter(drawn_HRW.to(**self._placed))

    def of_queries(self, columns: int, *, fans: int) -> Parameter:
        """Draw a row for every query, rows_HTW, the last first: it is the same however many queries there are."""
        rows_HTW = torch.empty(self._shape.heads, self._shape.seq_q, columns, **self._placed)
        for row in reversed(range(self._shape.seq_q)):
            rows_HTW[:, row] = self._uniform(columns, fans=fans)
        return Parameter(rows_HTW)

    def zeros(self, features: int) -> Parameter:
        """Return a bias of zeros, [H, features]."""
        return Parameter(torch.zeros(self._shape.heads, features, **self._placed))

    def _uniform(self, *size: int, fans: int) -> Tensor:
        bound = (6 / fans) ** 0.5
        drawn = torch.empty(self._shape.heads, *size, dtype=torch.float64)
        return drawn.uniform_(-bound, bound, generator=self._generator)


def _affine(x_HBCD: Tensor, weight_HWD: Tensor, bias_HW: Tensor) -> Tensor:
    """Return W x + b for each head. All sequences are rows of one product, so that no weights are copied."""
    y_HXW = torch.baddbmm(bias_HW[:, None], x_HBCD.flatten(1, 2), weight_HWD.mT)
    return y_HXW.view(*x_HBCD.shape[:3], -1)
