"""Feature maps: what stands for exp(q . k) as a product f(q) . f(k), so that sums over keys can be shared."""
# X sequences, T rows (queries or keys), D head dimension, F features

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch


class FeatureMap(ABC):
    """A function f of rows at positions from `first` on, in float32 or wider, in which sums over it are then held.

    With `exponents` it gives the logarithms of its features, which are scaled so that none overflows: that cancels.
    With `apart` each feature averages the values by itself, and a query averages those averages by softmax(f(q)).
    """

    exponents: ClassVar[bool] = False
    apart: ClassVar[bool] = False

    @abstractmethod
    def keys(self, x_XTD: torch.Tensor, first: int) -> torch.Tensor:
        """Map keys: f_XTF."""

    def queries(self, x_XTD: torch.Tensor, first: int) -> torch.Tensor:
        """Map queries: f_XTF."""
        return self.keys(x_XTD, first)


class Elu(FeatureMap):
    """elu(x) + 1 (Katharopoulos et al. 2020, eq. 7)."""

    def keys(self, x_XTD: torch.Tensor, first: int) -> torch.Tensor:
        """Map each number by itself."""
        del first
        if not torch.is_grad_enabled():
            return _elu_plus_one(wide(x_XTD))  # without autograd's share, 6% of a causal call
        f_XTD: torch.Tensor = _EluPlusOne.apply(wide(x_XTD))  # type: ignore[no-untyped-call] # torch leaves it untyped
        return f_XTD


class Relu(FeatureMap):
    """max(x, 0): cosFormer's map without its re-weighting (Qin et al. 2022), EfficientViT's attention."""

    def keys(self, x_XTD: torch.Tensor, first: int) -> torch.Tensor:
        """Map each number by itself."""
        del first
        return wide(x_XTD).relu()


class Softmax(FeatureMap):
    """Softmax of a query over its features, and of each feature over the keys (Shen et al. 2018, section 3.2)."""

    exponents = True
    apart = True

    def keys(self, x_XTD: torch.Tensor, first: int) -> torch.Tensor:
        """Give the exponents as they are."""
        del first
        return wide(x_XTD)


class RandomExponential(FeatureMap):
    """Positive random features of the softmax kernel exp(q . k / sqrt(D)) (Choromanski et al. 2020, lemma 1).

    They are exp(w . x - |x|^2 / (2 sqrt(D))), where `directions_DF` are the random w by D^(1/4). A query's square is
    left out: it scales all weights of its row alike.
    """

    exponents = True

    def __init__(self, directions_DF: torch.Tensor) -> None:
        self._directions_DF = directions_DF

    def keys(self, x_XTD: torch.Tensor, first: int) -> torch.Tensor:
        """Project, and take off what makes the product of two features average to the kernel."""
        squares_XT1 = wide(x_XTD).square().sum(dim=-1, keepdim=True)
        return torch.sub(self.queries(x_XTD, first), squares_XT1, alpha=0.5 * x_XTD.shape[-1] ** -0.5)

    def queries(self, x_XTD: torch.Tensor, first: int) -> torch.Tensor:
        """Project."""
        del first
        return torch.matmul(wide(x_XTD), self._directions_DF)


class RandomRelu(FeatureMap):
    """Random features of the arc-cosine kernel: max(w x, 0) + 0.001 (Choromanski et al. 2020, Performer-ReLU)."""

    def __init__(self, directions_DF: torch.Tensor) -> None:
        self._directions_DF = directions_DF

    def keys(self, x_XTD: torch.Tensor, first: int) -> torch.Tensor:
        """Project, cut, and add the authors' `kernel_epsilon`, without which a query may have no weight at all."""
        del first
        return torch.matmul(wide(x_XTD), self._directions_DF).relu() + 1e-3


class CosineRelu(FeatureMap):
    """max(x, 0) cos(a) and max(x, 0) sin(a), whose products hold cos(a_i - a_j) (Qin et al. 2022).

    The angle of a position is pi / 2 times its share of `length`, from `offset` positions before the first key on.
    Raises ValueError for a position beyond them.
    """

    def __init__(self, length: int, *, offset: int, device: str) -> None:
        self._offset = offset
        angles_T = torch.arange(length, dtype=torch.float64) * (torch.pi / 2 / length)
        turns_T2 = torch.stack([angles_T.cos(), angles_T.sin()], dim=1)
        self._turns_T21 = turns_T2[..., None].to(device)

    def keys(self, x_XTD: torch.Tensor, first: int) -> torch.Tensor:
        """Cut, and weight by position: F = 2 D."""
        start = self._offset + first
        end = start + x_XTD.shape[-2]
        if end > len(self._turns_T21):
            raise ValueError(f"its cosine was made for {len(self._turns_T21)} positions, and there is one more")
        f_XTD = wide(x_XTD).relu()
        turns_T21 = self._turns_T21[start:end].to(f_XTD.dtype)
        return (f_XTD[..., None, :] * turns_T21).flatten(-2)


class Taylor(FeatureMap):
    """The features of 1 + s + s^2 / 2 for s = q . k (Arora et al. 2024, section 4.1).

    Of s^2 / 2 = sum_ij q_i q_j k_i k_j / 2 each pair i < j is kept once, with the weight 1: F = 1 + d + d (d + 1) / 2.
    """

    def __init__(self, dim: int, *, device: str) -> None:
        # With [1, x] in place of x, all features are products of two rows; the squares take one scaled by 2^-1/2.
        one, other = torch.triu_indices(dim + 1, dim + 1)
        is_square = (one == other) & (one > 0)
        self._rows = tuple(each.to(device) for each in (one, torch.where(is_square, other + dim, other)))

    def keys(self, x_XTD: torch.Tensor, first: int) -> torch.Tensor:
        """Multiply pairs; laid out features first, so that a product of two rows is a pass over contiguous numbers."""
        del first
        x_XDT = wide(x_XTD).mT
        rows_XRT = torch.cat([torch.ones_like(x_XDT[..., :1, :]), x_XDT, x_XDT * 2**-0.5], dim=-2)
        one_F, other_F = self._rows
        return (rows_XRT.index_select(-2, one_F) * rows_XRT.index_select(-2, other_F)).mT


def wide(x: torch.Tensor) -> torch.Tensor:
    """Give x in float32 or wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _elu_plus_one(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(max=0).exp_().add_(x.clamp(min=0))


class _EluPlusOne(torch.autograd.Function):
    """The map elu(x) + 1, written so that it stays above zero where elu(x) rounds to -1.

    Its derivative is itself where x is below zero, and 1 above: one pass, where torch's own of such a form take seven.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        """Give exp(min(x, 0)) + max(x, 0)."""
        y = _elu_plus_one(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        """Give the gradient times min(y, 1)."""
        y: torch.Tensor = ctx.saved_tensors[0]
        return gradient * y.clamp(max=1)
