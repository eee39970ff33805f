"""Declarations of support that are not what the contract asks for, each in its own way."""

from attnbench import Support


class ADict:
    supports = {"causal": False}  # noqa: RUF012 - this is what is wrong with it


class ABareString:
    supports = Support(dtypes="float32")


class AnUnknownDtype:
    supports = Support(dtypes=("float8",))


class ANumber:
    supports = Support(causal=0)
