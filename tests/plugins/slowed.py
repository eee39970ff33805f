"""Exact attention as it is, and the same with a quarter of its time on top: a slowdown of a known size."""

import time

import torch

from attnbench import Case


class Plain:
    """Exact attention by torch's own kernel.

    (With a matrix of scores, 2 MB of it, a process by chance gives the memory back at each call or keeps it: it takes
    2.6 ms or 1.1.)
    """

    def __init__(self, case: Case) -> None:
        del case

    def __call__(self, q, k, v):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)


class Slowed(Plain):
    """The same, after which the processor is kept busy for a quarter of the shortest time that it has taken so far."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.shortest_ns = 10**12

    def __call__(self, q, k, v):
        start = time.perf_counter_ns()
        out = super().__call__(q, k, v)
        end = time.perf_counter_ns()
        self.shortest_ns = min(self.shortest_ns, end - start)
        while time.perf_counter_ns() < end + self.shortest_ns // 4:
            pass
        return out
