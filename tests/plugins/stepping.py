"""Mechanisms that decode with a state: uniform attention from a running sum, and what can go wrong with it."""

# B batch, G heads, S keys, D head dimension
import torch

from attnbench import Case


class Mean:
    """Average the values seen so far."""

    def __init__(self, case: Case) -> None:
        pass

    def __call__(self, q, k, v):
        raise AssertionError("with a state, decoding goes step by step")

    def prefill(self, k_BGSD, v_BGSD):
        return v_BGSD.sum(dim=2, keepdim=True), v_BGSD.shape[2]

    def step(self, q, k, v, state):
        total, count = state
        return (total + v) / (count + 1), (total + v, count + 1)


class SumsInPlace(Mean):
    """Adds to the state that it was given."""

    def step(self, q, k, v, state):
        total, count = state
        total += v
        return total / (count + 1), (total, count + 1)


class Caches(Mean):
    """Writes the value into the next place of a cache."""

    def prefill(self, k_BGSD, v_BGSD):
        return torch.nn.functional.pad(v_BGSD, (0, 0, 0, 1)), v_BGSD.shape[2]

    def step(self, q, k, v, state):
        cache_BGSD, count = state
        cache_BGSD[:, :, count : count + 1] = v
        return cache_BGSD[:, :, : count + 1].mean(dim=2, keepdim=True), (cache_BGSD, count + 1)


class ForgetsTheState(Mean):
    def step(self, q, k, v, state):
        return super().step(q, k, v, state)[0]


class KeepsAList(Mean):
    def prefill(self, k_BGSD, v_BGSD):
        return [v_BGSD]


class StepsWithoutPrefill:
    def __init__(self, case: Case) -> None:
        pass

    def __call__(self, q, k, v):
        return q

    def step(self, q, k, v, state):
        return q, state
