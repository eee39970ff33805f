"""A plugin that says all that it may say."""

from typing import Annotated, Literal

from msgspec import Meta
from plain_function import first_value  # a file beside this one

from attnbench import Case, Options, Support


class Rich:
    """Give every query the first value, richly.

    And more words than a list has room for.
    """

    class Options(Options):
        size: Annotated[int, Meta(ge=1, description="nothing depends on it")] = 8
        rate: float = 0.5
        mode: Literal["fast", "slow"] = "fast"
        limit: int | None = None
        name: str = ""
        share: bool = True

    supports = Support(dtypes=("float32",), devices=("cpu",), causal="it looks ahead", cross=False, spans=("size",))
    backend = "by hand"

    def __init__(self, case: Case, options: Options) -> None:
        self.case = case
        self.options = options

    def __call__(self, q, k, v):
        return first_value(q, k, v)

    @staticmethod
    def reach(case: Case) -> float:
        return 1 / case.shape.seq_k
