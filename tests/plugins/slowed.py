"""Exact attention as it is, and the same with a quarter of its time wasted on top: a regression of a known size."""

import time

import torch

from attnbench import Case


class Plain:
    """Exact attention, plainly."""

    def __init__(self, case: Case) -> None:
        self.scale = case.shape.head_dim**-0.5

    def __call__(self, q, k, v):
        return torch.softmax(q @ k.transpose(-1, -2) * self.scale, -1) @ v


class Slowed(Plain):
    """The same, after which the processor is kept busy for 25% of the time that it took."""

    def __call__(self, q, k, v):
        start = time.perf_counter_ns()
        out = super().__call__(q, k, v)
        end = time.perf_counter_ns()
        end += (end - start) // 4
        while time.perf_counter_ns() < end:
            pass
        return out
