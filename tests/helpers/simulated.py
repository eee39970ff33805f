"""Runs on a simulated machine: rows with the medians that drifting, autocorrelated, noisy rounds would have given."""

from collections.abc import Sequence
from statistics import median

import msgspec
import numpy as np
from scipy.signal import lfilter

from attnbench.analysis.rows import TWIN, Row, rows
from helpers.planted import job


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What disturbs measurements, in logarithms.

    `noise` is the standard deviation of each process alone, `wander` that of an AR(1) course over the jobs in the order
    in which they ran (`rho` from one to the next), `level` that of whole sessions; `drift` is by how much a run ends
    slower than it began.
    """

    noise: float = 0.01
    drift: float = 0.02
    wander: float = 0.01
    rho: float = 0.8
    level: float = 0.0


def blank(variant: str, *, seq: int = 512, run: str = "base") -> Row:
    """Return a latency row without figures."""
    (row,) = rows([], [job(variant, seq=seq)], run=run)
    return row


def timed(row: Row, medians: Sequence[float]) -> Row:
    """Fill in the medians of a row's rounds, of the first one on."""
    by_round = dict(enumerate(medians, start=1))
    return msgspec.structs.replace(
        row,
        status="ok",
        value=median(medians),
        samples=len(by_round),
        rounds=len(by_round),
        medians=by_round,
        detail="",
    )


def twin(row: Row) -> Row:
    """Return the row of the same case's second measurement."""
    return msgspec.structs.replace(row, metric=row.metric + TWIN, primary=False)


def plan(variants: Sequence[str], cells: int, *, run: str = "base") -> list[Row]:
    """Return a run's rows without figures: each variant at several lengths, and the first variant a second time."""
    given = [blank(variant, seq=64 * (cell + 1), run=run) for variant in variants for cell in range(cells)]
    return [*given, *(twin(row) for row in given[:cells])]


def measured(
    planned: Sequence[Row], true: np.ndarray, rounds: int, *, machine: Machine, rng: np.random.Generator
) -> list[Row]:
    """Measure planned rows whose true times are known, each round in an order of its own, on a machine that drifts."""
    jobs = len(planned)
    course = machine.drift * np.linspace(0, 1, rounds * jobs) + machine.level * rng.normal()
    course += _wandering(rounds * jobs, machine, rng)
    order = np.argsort(rng.random((rounds, jobs)), axis=1)
    disturbance = np.empty((rounds, jobs))
    np.put_along_axis(disturbance, order, course.reshape(rounds, jobs), axis=1)
    times = true * np.exp(disturbance + rng.normal(0, machine.noise, (rounds, jobs)))
    return [timed(row, times[:, place].tolist()) for place, row in enumerate(planned)]


def _wandering(count: int, machine: Machine, rng: np.random.Generator) -> np.ndarray:
    """Return an AR(1) series that is stationary from its first step."""
    shocks = rng.normal(0, machine.wander * np.sqrt(1 - machine.rho**2), count)
    shocks[0] = machine.wander * rng.normal()
    return lfilter([1.0], [1.0, -machine.rho], shocks)
