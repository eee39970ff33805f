"""Options that are not what the contract asks for, each in its own way."""

from attnbench import Options


class NotDerived:
    class Options:
        size: int = 8


class NoDefault:
    class Options(Options):
        size: int


class NotScalar:
    class Options(Options):
        sizes: tuple[int, ...] = (1, 2)


class NotFinite:
    class Options(Options):
        temperature: float = float("inf")


class WrongDefault:
    class Options(Options):
        size: int = "eight"


class Unreadable:
    class Options(Options):
        size: "a_name_that_is_not_there" = 8  # noqa: F821 - this is what is wrong with it
