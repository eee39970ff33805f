"""Output of a child in bounded memory."""

_HEAD, _TAIL = 8 << 10, 24 << 10


class Log:
    """The beginning and the end of a child's output."""

    def __init__(self) -> None:
        self.head, self.tail, self.total = b"", b"", 0

    def add(self, data: bytes) -> None:
        """Append output."""
        self.total += len(data)
        room = _HEAD - len(self.head)
        self.head, rest = self.head + data[:room], data[room:]
        self.tail = (self.tail + rest[-_TAIL:])[-_TAIL:]

    def text(self) -> str:
        """Return the output as text; bytes that are not UTF-8 become escapes."""
        left_out = self.total - len(self.head) - len(self.tail)
        middle = f"\n... {left_out} bytes left out ...\n".encode() if left_out else b""
        return (self.head + middle + self.tail).decode("utf-8", errors="backslashreplace")


def shortened(text: str) -> str:
    """Return text with its middle left out if it is longer than a log."""
    if len(text) <= _HEAD + _TAIL:
        return text
    return f"{text[:_HEAD]}\n... {len(text) - _HEAD - _TAIL} characters left out ...\n{text[-_TAIL:]}"
