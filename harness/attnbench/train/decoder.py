"""The decoder of a sequence that a model has compressed into one vector."""

# B batch, T positions, E width
from typing import cast

from torch import Tensor, nn

from attnbench.train.positions import Sinusoidal


class Decoder(nn.Module):
    """Decode each position from the same vector (Poli et al. 2024, appendix B; athms/mad-lab, `AutoEncoder`).

    The vector with each position's sinusoids passes two layers of its own width, each normalised before and with a GELU
    after, and a last norm. No position sees another, so that nothing reaches the answers but the vector.
    """

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.positions = Sinusoidal(length, width)
        layers = [(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU()) for _ in range(2)]
        self.layers = nn.Sequential(*(module for layer in layers for module in layer), nn.LayerNorm(width))

    def forward(self, x_BE: Tensor) -> Tensor:
        """Return a state for each position, [B, T, E]."""
        return cast("Tensor", self.layers(self.positions(x_BE[:, None])))
