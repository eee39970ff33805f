"""Positional encodings of the trained model: added to the embedding, or applied to queries and keys."""

# B batch, H heads, T positions, E width, D head dimension, P parts of a head
import torch
from torch import Tensor, nn

WAVELENGTH = 10_000.0


class Sinusoidal(nn.Module):
    """Add sines and cosines of geometrically growing wavelength (Vaswani et al. 2017, section 3.5)."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        angles_TF = _angles(length, (width + 1) // 2)
        waves_TE = torch.stack((angles_TF.sin(), angles_TF.cos()), dim=-1).flatten(1)[:, :width]
        self.register_buffer("waves_TE", waves_TE.float(), persistent=False)

    def forward(self, x_BTE: Tensor) -> Tensor:
        """Return x with the waves of its positions added."""
        return x_BTE + self.get_buffer("waves_TE")


class Learned(nn.Module):
    """Add a learned vector for each position (Gehring et al. 2017, section 3.1)."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.vectors_TE = nn.Parameter(torch.empty(length, width))
        nn.init.normal_(self.vectors_TE, std=width**-0.5)

    def forward(self, x_BTE: Tensor) -> Tensor:
        """Return x with the vectors of its positions added."""
        return x_BTE + self.vectors_TE


class Rotary(nn.Module):
    """Rotate each pair of features by an angle that grows with the position (Su et al. 2021, equation 15).

    The product of a rotated query and a rotated key depends on their distance alone. Feature i is paired with feature
    i + D / 2, not with its neighbour. With several `parts`, each part of a head is rotated by itself.
    """

    def __init__(self, length: int, head_dim: int, *, parts: int = 1) -> None:
        super().__init__()
        self.parts, head_dim = parts, head_dim // parts
        angles_TD = _angles(length, head_dim // 2).repeat(1, 2)
        self.register_buffer("cos_TD", angles_TD.cos().float(), persistent=False)
        self.register_buffer("sin_TD", angles_TD.sin().float(), persistent=False)

    def forward(self, q_BHTD: Tensor) -> Tensor:
        """Return rotated queries or keys."""
        part_BHPTD = q_BHTD.unflatten(-1, (self.parts, -1)).movedim(-2, -3)
        first, second = part_BHPTD.chunk(2, dim=-1)
        orthogonal_BHPTD = torch.cat((-second, first), dim=-1)
        rotated_BHPTD = part_BHPTD * self.get_buffer("cos_TD") + orthogonal_BHPTD * self.get_buffer("sin_TD")
        rotated_BHTD: Tensor = rotated_BHPTD.movedim(-3, -2).flatten(-2)
        return rotated_BHTD.to(q_BHTD.dtype)


def _angles(length: int, count: int) -> Tensor:
    """Return the angles of positions at `count` frequencies, [T, F], in float64."""
    frequencies_F = WAVELENGTH ** (-torch.arange(count, dtype=torch.float64) / count)
    return torch.arange(length, dtype=torch.float64)[:, None] * frequencies_F
