"""TOML files as checked structs, with errors that name the line or field and the nearest valid name."""

import re
import typing
from pathlib import Path

import msgspec
from msgspec import Struct

from attnbench.contracts.errors import UsageError, suggestion

T = typing.TypeVar("T")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<field>[^`]*)`")
_PLACE = re.compile(r" - at `(?P<key>key` in `)?\$\.?(?P<place>[^`]*)`")
_STEP = re.compile(r"\w+|\[[^\]]*\]")


def read_file(path: Path, kind: type[T], *, flag: str) -> T:
    """Return a TOML file as a struct. Raises UsageError naming `flag`, the file, and the line or field at fault."""
    try:
        text = path.read_bytes().decode()
        return msgspec.toml.decode(text, type=kind)
    except OSError as error:
        raise UsageError(f"{flag}: {str(path)!r} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{flag}: {str(path)!r} is not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except msgspec.ValidationError as error:
        raise UsageError(f"{flag}: {str(path)!r}{_explained(str(error), kind, text)}") from error
    except msgspec.DecodeError as error:
        raise UsageError(f"{flag}: {str(path)!r}: {error}") from error


def _explained(message: str, kind: object, text: str) -> str:
    """Return a validation error with the field's path, its line if only one has it, and the nearest known field."""
    found = _PLACE.search(message)
    place = found["place"] if found else ""
    said = _PLACE.sub("", message)
    unknown = _UNKNOWN.search(message)
    if unknown:
        field = unknown["field"]
        said = f"no field is called {field!r}; {suggestion(field, _fields(kind, _STEP.findall(place)))}"
    else:
        field = (_STEP.findall(place) or [""])[-1]
    where = f"in {place}" if unknown and place else place
    return f"{''.join(f', {each}' for each in (_line(field, text), where) if each)}: {said}"


def _line(field: str, text: str) -> str:
    """Return `line N` for a field; empty if several lines could hold it."""
    pattern = re.compile(rf"(\[+([\w.-]+\.)?)?[\"']?{re.escape(field)}[\"']?\s*(=|\]|\.)")
    lines = [number for number, line in enumerate(text.splitlines(), 1) if field and pattern.match(line.strip())]
    return f"line {lines[0]}" if len(lines) == 1 else ""


def _fields(kind: object, steps: list[str]) -> list[str]:
    """Return the names of the fields at a path within a struct."""
    structs = list(_structs(kind))
    for step in steps:
        hints = [typing.get_type_hints(each).get(step) for each in structs]
        structs = structs if step.startswith("[") else [one for hint in hints for one in _structs(hint)]
    return [name for each in structs for name in each.__struct_fields__]


def _structs(hint: object) -> typing.Iterator[type[Struct]]:
    """Yield the structs that a type holds."""
    if isinstance(hint, type) and issubclass(hint, Struct):
        yield hint
    for inner in typing.get_args(hint):
        yield from _structs(inner)
