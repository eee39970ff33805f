"""Text that is safe to print anywhere, and options as they are typed."""

from collections.abc import Iterable, Mapping

import msgspec

from attnbench.contracts.case import Option


def plain(text: str) -> str:
    r"""Return text with unprintable characters (escape codes, line ends, direction marks) as \x1b, \n, \u202e."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def option_text(value: Option) -> str:
    """Return an option's value as it is typed on the command line."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def with_options(name: str, options: Mapping[str, Option], *, keys: Iterable[str]) -> str:
    """Return a name with the options listed in `keys`: `mqar:length=64,pairs=8`."""
    given = ",".join(f"{key}={option_text(options[key])}" for key in keys if key in options)
    return f"{name}:{given}" if given else name
