"""Settings of every test session."""

import gc


def pytest_collection_finish() -> None:
    """Leave the half million objects of the collected tests out of later garbage collections, which take 0.4 s each."""
    gc.collect()
    gc.freeze()
