"""The exceptions that end a command: a user's mistake, a damaged store, a failed write, a lost process."""

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """A user's mistake, in one sentence that names the flag or field and the fix. Exit code 2."""


class DamagedStore(Exception):  # noqa: N818 - it names the state of the store, as the command line says it
    """A stored run that is incomplete or altered beyond repair by reading. Exit code 1."""


class NotStored(Exception):  # noqa: N818 - it names what happened to the record
    """A record that could not be written; all before it are safe, and the run can be resumed. Exit code 1."""


class NoProcess(Exception):  # noqa: N818 - it names what the machine did not give
    """A process that a command cannot do without was ended by the machine, in one sentence. Exit code 1."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return a hint that names the known name nearest to a mistyped one, or all of them if none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"there are: {', '.join(names)}" if names else "there are none"


def is_text(value: str) -> bool:
    """Return whether a string can be encoded as UTF-8; an argument whose bytes were not UTF-8 cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
