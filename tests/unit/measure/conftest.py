"""What is measured or trained here runs in the tests' own process."""

from helpers.threads import one_thread

__all__ = ["one_thread"]
