"""Benchmarks are not tests: they run by `make bench`, on a machine that does nothing else."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
