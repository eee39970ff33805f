"""The grammar of flags: ranges (--seq, --heads) give tuples of whole numbers, amounts are in base units."""

import re
from collections.abc import Iterator, Mapping, Sequence

from attnbench.contracts.errors import UsageError, suggestion

GRAMMAR = "512..16384 (doubling), 512..4096:+512 (step), 512..4096:x4 (factor), 512,1k,16k (list), or a mix by commas"
LARGEST = 2**31
MOST_VALUES = 1000
_PIECE = re.compile(r"(?P<start>[0-9]+k?)(\.\.(?P<end>[0-9]+k?)(:(?P<step>[+x][0-9]+k?))?)?", re.ASCII)
_K = 1024
DURATIONS = "90s, 10m, 1h30m or seconds"
_DURATION = re.compile(r"(?=.)((?P<h>[0-9]{1,6})h)?((?P<m>[0-9]{1,6})m)?((?P<s>[0-9]{1,9})s?)?", re.ASCII)
_SECONDS = {"h": 3600, "m": 60, "s": 1}
_AMOUNT = re.compile(r"(?P<number>[0-9]{1,15}(\.[0-9]{1,9})?) ?(?P<unit>[A-Za-z]*)", re.ASCII)
AMOUNTS_OF_MEMORY = "24GiB, 24G (the same), 24GB (10^9 each) or bytes"
_BYTES = {"": 1, "b": 1} | {
    f"{prefix}{ending}": base**power
    for power, prefix in enumerate("kmgt", start=1)
    for ending, base in (("ib", 1024), ("", 1024), ("b", 1000))
}
LATENCIES = "50ms, 200us, 1.5s or seconds"
_LATENCY = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def parse_range(text: str, *, flag: str, zero: bool = False) -> tuple[int, ...]:
    """Parse '512..4096,6k' as (512, 1024, 2048, 4096, 6144): ascending, each value once.

    Raises UsageError, naming `flag` and showing the grammar, for a range that is empty, reversed, zero, not a number
    or larger than 2^31. With `zero`, zero is allowed: 0..100:+25.
    """
    values: set[int] = set()
    for piece in text.split(","):
        values.update(_piece(piece.strip(), flag, zero=zero))
        if len(values) > MOST_VALUES:
            raise _wrong(flag, text, f"gives more than {MOST_VALUES} values")
    return tuple(sorted(values))


def parse_choices(text: str, known: Sequence[str], *, flag: str) -> tuple[str, ...]:
    """Parse 'forward,decode' as known words, each once. Raises UsageError naming `flag` and the nearest word."""
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in known:
            raise UsageError(f"{flag}: {word!r} is not one of {', '.join(known)}; {suggestion(word, known)}")
    # The known words themselves: a default is left out of a key by identity, and a word as typed would be another.
    return tuple(dict.fromkeys(known[known.index(word)] for word in words))


def parse_numbers(text: str, *, flag: str) -> tuple[int, ...]:
    """Parse '0,3' as numbers from 0, each once; 'all' gives none. Raises UsageError naming `flag`."""
    if text == "all":
        return ()
    if not re.fullmatch(r"\d{1,6}(,\d{1,6})*", text, re.ASCII):
        raise UsageError(f"{flag}: {text!r} is not a list of numbers from 0; write 0, 0,3 or all")
    return tuple(dict.fromkeys(map(int, text.split(","))))


def parse_duration(text: str, *, flag: str) -> float:
    """Parse '1h30m', '10m', '90s' or '90' as seconds. Raises UsageError, naming `flag` and showing the grammar."""
    match = _DURATION.fullmatch(text.strip())
    seconds = sum(int(match[unit] or 0) * size for unit, size in _SECONDS.items()) if match else 0
    if seconds <= 0:
        raise UsageError(f"{flag}: {text!r} is not a duration; write {DURATIONS}")
    return float(seconds)


def parse_bytes(text: str, *, flag: str) -> int:
    """Parse '24GiB' or '24G' (2^30 each), '24GB' (10^9 each) or bytes. Raises UsageError, as `parse_duration`."""
    return round(
        _amount(text.lower(), _BYTES, f"{flag}: {text!r} is not an amount of memory; write {AMOUNTS_OF_MEMORY}")
    )


def parse_latency(text: str, *, flag: str) -> float:
    """Parse '50ms', '200us', '1.5s' or a number as seconds. Raises UsageError, as `parse_duration`."""
    return _amount(text, _LATENCY, f"{flag}: {text!r} is not a latency; write {LATENCIES}")


def _amount(text: str, units: Mapping[str, float], mistake: str) -> float:
    match = _AMOUNT.fullmatch(text.strip())
    if match is None or match["unit"] not in units or not float(match["number"]):
        raise UsageError(mistake)
    return float(match["number"]) * units[match["unit"]]


def _piece(piece: str, flag: str, *, zero: bool) -> Iterator[int]:
    match = _PIECE.fullmatch(piece)
    if match is None:
        raise _wrong(flag, piece, "is empty" if not piece else "is not a range")
    start = _number(match["start"], flag, zero=zero)
    end = _number(match["end"], flag, zero=zero) if match["end"] else start
    if end < start:
        raise _wrong(flag, piece, "is reversed")
    step = match["step"] or "x2"
    size = _number(step[1:], flag)
    if step[0] == "x" and size == 1:
        raise _wrong(flag, piece, "never ends: a factor is at least 2")
    if step[0] == "x" and start == 0 < end:
        raise _wrong(flag, piece, "never ends: from zero it goes by steps")
    value, count = start, 0
    while value <= end and count <= MOST_VALUES:
        yield value
        value, count = (value + size if step[0] == "+" else value * size), count + 1


def _number(text: str, flag: str, *, zero: bool = False) -> int:
    digits = text.removesuffix("k").lstrip("0")
    if len(digits) > len(str(LARGEST)):  # int() itself refuses some thousands of digits
        raise _wrong(flag, text, "is larger than 2^31")
    value = int(digits or "0") * (_K if text.endswith("k") else 1)
    if value == 0 and not zero:
        raise _wrong(flag, text, "is zero")
    if value > LARGEST:
        raise _wrong(flag, text, "is larger than 2^31")
    return value


def _wrong(flag: str, text: str, why: str) -> UsageError:
    return UsageError(f"{flag}: {text!r} {why}; write {GRAMMAR}")
