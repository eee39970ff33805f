"""Initial weights, drawn on the CPU in float64: every device and dtype starts from the same ones within rounding."""

import torch

from attnbench import Case


def generator(case: Case) -> torch.Generator:
    """Return the generator of the case's seed."""
    return torch.Generator().manual_seed(case.seed)


def uniform(*sizes: int, bound: float, generator: torch.Generator) -> torch.Tensor:
    """Draw weights uniformly between -bound and bound, in float64."""
    return torch.empty(sizes, dtype=torch.float64).uniform_(-bound, bound, generator=generator)


def normal(*sizes: int, deviation: float, generator: torch.Generator) -> torch.Tensor:
    """Draw weights normally with mean zero, in float64."""
    return torch.randn(sizes, dtype=torch.float64, generator=generator) * deviation


def undecayed(weights: torch.nn.Parameter) -> torch.nn.Parameter:
    """Mark a parameter as one without weight decay, as flash-linear-attention marks gates and decays."""
    weights._no_weight_decay = True  # type: ignore[attr-defined]  # noqa: SLF001 - the name in use elsewhere
    return weights


def learned(case: Case, weights: torch.Tensor) -> torch.nn.Parameter:
    """Return weights as a parameter of the case's dtype, on its device."""
    return torch.nn.Parameter(weights.to(getattr(torch, case.dtype)).to(case.device))
