"""Flags as metadata of the fields that they set: a field so described is an option of the command line."""

from msgspec import Meta

SWEEP, MEASURE, HOW = "What to sweep", "What to measure", "How"  # the panels of help texts


def flag(text: str, metavar: str = "", *, panel: str = SWEEP, default: str = "", name: str = "") -> Meta:
    """Return the metadata of a field that is a flag: its help, without a full stop, and how it is shown.

    `default` describes a default that the field itself does not hold; `name` replaces the field's own name.
    """
    return Meta(description=text, extra={"metavar": metavar, "panel": panel, "default": default, "name": name})
