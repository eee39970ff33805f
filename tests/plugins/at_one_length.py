"""Mechanisms that are fast, and wrong in part: what they cost there is no figure."""

from attnbench import Case, Support


class NotANumberAt128:
    """The values themselves, but NaN on a sequence of 128."""

    def __init__(self, case: Case) -> None:
        self.factor = float("nan") if case.shape.seq_q == 128 else 1.0

    def __call__(self, q, k, v):
        return v * self.factor + 0 * q


class WronglyExact:
    """Calls itself exact and is not."""

    supports = Support(exact=True)

    def __init__(self, case: Case) -> None:
        pass

    def __call__(self, q, k, v):
        return v + 0 * q
