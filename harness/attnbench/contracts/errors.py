"""The ways attnbench says no: a user's mistake, a store that cannot be trusted, a disk that takes no more."""

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """A user's mistake, told in one sentence that names the flag or field and the fix. Exit code 2."""


class DamagedStore(Exception):  # noqa: N818 - it names the state of the store, as the command line says it
    """A stored run that is incomplete or altered in a way that reading cannot mend. Exit code 1."""


class NotStored(Exception):  # noqa: N818 - it names what became of the record
    """A record that the disk did not take, while all before it are safe: the run can be resumed. Exit code 1."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """Say which known name is nearest to a mistyped one, or list them all where none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"there are: {', '.join(names)}" if names else "there are none"


def is_text(value: str) -> bool:
    """Tell whether a string can be written anywhere: bytes of an argument that were not UTF-8 cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
