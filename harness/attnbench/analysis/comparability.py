"""What two runs must have in common for their values to be comparable, and where they differ."""

from collections.abc import Iterable, Iterator

import msgspec
from msgspec import Struct

from attnbench.analysis.groups import group_by
from attnbench.contracts.record import Environment, Job, Protocol

_OF_THE_MACHINE = ("device", "device_name", "driver", "torch", "threads", "allocator")
# The number of samples, the time until a silent job is given up, and the name of the settings change no sample.
_NOT_OF_A_SAMPLE = ("profile", "rounds", "timeout_s")

_Aspect = tuple[str, set[object], set[object]]  # its name, and its values in the base and in the new run


class Circumstances(Struct, frozen=True, kw_only=True):
    """Where and how a run was measured."""

    environments: tuple[Environment, ...]
    jobs: tuple[Job, ...]


class Mismatch(Struct, frozen=True, kw_only=True):
    """An aspect in which two runs differ, with its values."""

    name: str
    base: str
    new: str

    def __str__(self) -> str:
        return f"{self.name.replace('_', ' ')} ({self.base} and {self.new})"


def mismatches(base: Circumstances, new: Circumstances) -> list[Mismatch]:
    """Return what differs in the machine, in torch and its flags, in the protocol and in the seed, each once."""
    differing: dict[str, Mismatch] = {}
    base_seeds, new_seeds = (set[object](job.case.seed for job in run.jobs) for run in (base, new))
    aspects = (*_of_machines(base, new), *_of_protocols(base, new), ("seed", base_seeds, new_seeds))
    for name, one, other in aspects:
        if one != other:
            differing.setdefault(name, Mismatch(name=name, base=_text(one), new=_text(other)))
    return list(differing.values())


def machine_mismatches(environments: Iterable[Environment], machine: Environment) -> list[Mismatch]:
    """Return the mismatches between the machines and software of a run and this machine."""
    measured_on = Circumstances(environments=tuple(environments), jobs=())
    return mismatches(measured_on, Circumstances(environments=(machine,), jobs=()))


def _of_machines(base: Circumstances, new: Circumstances) -> Iterator[_Aspect]:
    one, other = base.environments, new.environments
    for name in _OF_THE_MACHINE:
        yield name, _values(name, one), _values(name, other)
    for flag in dict.fromkeys(flag for environment in (*one, *other) for flag in environment.flags):
        values, new_values = (set[object](machine.flags.get(flag) for machine in side) for side in (one, other))
        yield flag, values, new_values


def _of_protocols(base: Circumstances, new: Circumstances) -> Iterator[_Aspect]:
    """Yield the settings of the protocol, for the probes that both runs have."""
    one, other = (group_by(run.jobs, lambda job: job.probe.kind) for run in (base, new))
    for probe in one:
        for name in Protocol.__struct_fields__ if probe in other else ():
            if name not in _NOT_OF_A_SAMPLE:
                values, new_values = (_values(name, (job.protocol for job in run[probe])) for run in (one, other))
                yield name, values, new_values


def _values(name: str, structs: Iterable[Struct]) -> set[object]:
    return {getattr(struct, name) for struct in structs}


def _text(values: set[object]) -> str:
    return " or ".join(sorted("none" if value is None else _word(value) for value in values)) or "unknown"


def _word(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
