"""attnbench: what each attention mechanism costs at your lengths, heads, hardware and task, and what it gives up."""

from attnbench.case import Case, Mask, Shape
from attnbench.variant import Attention, InvalidOutput, Options, Support, Unsupported

__all__ = ["Attention", "Case", "InvalidOutput", "Mask", "Options", "Shape", "Support", "Unsupported"]
