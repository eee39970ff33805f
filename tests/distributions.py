"""Outside distributions, laid out on the path as an installer would, and the imports of their plugins undone."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

PLAIN = "def attend(q, k, v):\n    return q\n"
NOTHING: Mapping[str, str] = {}


def lay_out(
    place: Path,
    name: str,
    *,
    version: str = "1.0",
    variants: Sequence[str] = (),
    files: Mapping[str, str] = NOTHING,
    metadata: bool = True,
) -> Path:
    """Write a distribution's files and what it registers into a folder; give the folder."""
    info = place / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    if metadata:
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text("\n".join(["[attnbench.variants]", *variants, ""]))
    for path, text in files.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text(text)
    return place


def forget_imports() -> None:
    """Let the next test import file plugins, and modules called acme..., anew."""
    for name in list(sys.modules):
        if name.startswith(("attnbench_file_", "acme", "plain_function")):
            del sys.modules[name]
