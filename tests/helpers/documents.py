"""The documents as tests read them: their code, their commands, their headings."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


def code(document: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", document.read_text(), re.DOTALL)


def shell_lines(document: Path) -> list[str]:
    """Return the indented lines that begin with a command, but not those of a printed table."""
    return re.findall(r"^    ((?:attnbench|make|pip|git) .*)$", document.read_text(), re.MULTILINE)


def command_lines(document: Path) -> Iterator[tuple[str, ...]]:
    """Split the lines that call attnbench into words, without the command's name; placeholders are left out."""
    for line in shell_lines(document):
        words = shlex.split(line, comments=True)
        if words[0] == "attnbench" and not any(word.isupper() and word.isalpha() for word in words[1:]):
            yield tuple(words[1:])


def headings(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
