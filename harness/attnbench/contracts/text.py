"""Words in tables: names and reasons made safe to print anywhere, and values and options as a person reads them."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from attnbench.contracts.case import Option

_SORTED, _AS_THEY_ARE = msgspec.json.Encoder(order="deterministic"), msgspec.json.Encoder()


def plain(text: str) -> str:
    r"""Show what does not print (escape codes, NUL, line ends, direction marks) as written: \x1b, \n, \u202e."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def canonical(options: Mapping[str, Option] | Mapping[int, float]) -> str:
    """Write a mapping as JSON: equal options give equal text, for keys are sorted; rounds stay in their order."""
    return _encoder_of(options).encode(options).decode()


def canonical_each(several: Iterable[Mapping[str, Option]] | Iterable[Mapping[int, float]]) -> list[str]:
    """Write mappings as `canonical` does, all at once."""
    mappings: list[Mapping[Any, Any]] = list(several)
    lines = _encoder_of(next(filter(None, mappings), {})).encode_lines(mappings)
    return lines.decode().split("\n")[:-1]  # no other sign of a line's end is one in JSON


def _encoder_of(mapping: Mapping[Any, Any]) -> msgspec.json.Encoder:
    """Choose by a mapping's keys: names are sorted, which the encoder cannot do with numbers."""
    return _SORTED if all(isinstance(key, str) for key in mapping) else _AS_THEY_ARE


def option_text(value: Option) -> str:
    """Write an option as it is typed on the command line."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def with_options(name: str, options: Mapping[str, Option], *, keys: Iterable[str]) -> str:
    """Write a name with those of its options that are listed, as `mqar:length=64,pairs=8`."""
    given = ",".join(f"{key}={option_text(options[key])}" for key in keys if key in options)
    return f"{name}:{given}" if given else name
