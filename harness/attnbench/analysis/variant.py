"""A variant as results name it: by its name, its options and its origin."""

from msgspec import Struct

from attnbench.contracts.case import Identity, Option, canonical


class Variant(Struct, frozen=True, kw_only=True):
    """The fields that results about a variant begin with."""

    variant: str
    options: dict[str, Option]
    origin: str

    @property
    def identity(self) -> Identity:
        """The variant's identity, as of its rows."""
        return self.variant, canonical(self.options), self.origin
