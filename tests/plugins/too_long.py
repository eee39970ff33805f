"""A mechanism that runs out of memory from 128 keys on, without filling any."""

import torch


class TooLong:
    """Attend to short sequences only."""

    def __init__(self, case):
        self.keys = case.shape.seq_k

    def __call__(self, q, k, v):
        if self.keys >= 128:
            raise MemoryError
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)
