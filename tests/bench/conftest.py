"""Benchmarks are not tests: they run by `make bench`, on a machine that does nothing else."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
