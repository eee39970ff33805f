"""Names with options, as typed: `reformer:rounds=4,bucket=64,./mine.py:Mine:alpha=2` is two specs."""

import re

from msgspec import Struct

from attnbench.contracts.errors import UsageError, is_text

GRAMMAR = "NAME, NAME:option=value,option=value, ./file.py:Name or package.module:Name, joined by commas"
_OPTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)
_NAME_AND_OPTION = re.compile(rf"(?P<name>.*?):(?P<option>{_OPTION.pattern})", re.DOTALL)


# A value of a list such as heads=1,2,4, in the grammar of ranges: no name of a plugin looks like it.
_MORE = re.compile(r"[0-9]+k?(\.\.[0-9]+k?(:[+x][0-9]+k?)?)?", re.ASCII)


class Spec(Struct, frozen=True, kw_only=True):
    """A plugin as typed: its name, and the options given, still as text."""

    name: str
    options: dict[str, str] = {}

    def __str__(self) -> str:
        given = ",".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.name}:{given}" if given else self.name


def parse_specs(text: str, *, flag: str, ranges: bool = False) -> tuple[Spec, ...]:
    """Parse a comma-separated list of names with options; a piece of the form x=y continues the name before it.

    With `ranges` a piece that is a number or a range continues the value before it: `mqar:heads=1,2,4..16`.
    """
    if not is_text(text):
        raise UsageError(f"{flag}: {text!r} is not UTF-8; write {GRAMMAR}")
    specs: list[Spec] = []
    for piece in text.split(","):
        if not piece.strip():
            raise UsageError(f"{flag}: {text!r} has an empty name; write {GRAMMAR}")
        if _OPTION.fullmatch(piece.strip()):
            if not specs:
                raise UsageError(f"{flag}: {piece.strip()!r} is an option without a name before it; write {GRAMMAR}")
            _add_option(specs[-1], piece.strip(), flag)
        elif ranges and specs and specs[-1].options and _MORE.fullmatch(piece.strip()):
            last = next(reversed(specs[-1].options))
            specs[-1].options[last] += f",{piece.strip()}"
        else:
            specs.append(_spec(piece.strip(), flag))
    return tuple(specs)


def _spec(piece: str, flag: str) -> Spec:
    match = _NAME_AND_OPTION.fullmatch(piece)
    if match is None:
        return Spec(name=piece, options={})
    if not match["name"]:
        raise UsageError(f"{flag}: {piece!r} has no name before its option; write {GRAMMAR}")
    spec = Spec(name=match["name"], options={})
    _add_option(spec, match["option"], flag)
    return spec


def _add_option(spec: Spec, piece: str, flag: str) -> None:
    key, _, value = piece.partition("=")
    if key in spec.options:
        raise UsageError(f"{flag}: option {key!r} of {spec.name!r} is given twice; keep one of them")
    spec.options[key] = value
