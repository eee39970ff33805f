"""What must be the same for the figures of two runs to be comparable, and where it is not."""

from collections.abc import Iterable, Iterator

import msgspec
from msgspec import Struct

from attnbench.contracts.record import Environment, Job, Protocol

_OF_THE_MACHINE = ("device", "device_name", "driver", "torch", "threads", "allocator")
# How many samples there are, when a silent job is given up, and what the settings are called: none changes a sample.
_NOT_OF_A_SAMPLE = ("profile", "rounds", "timeout_s")

Sides = tuple[str, set[object], set[object]]  # what is looked at, and its values in the base and in the new


class Circumstances(Struct, frozen=True, kw_only=True):
    """Where and how a run was measured."""

    environments: tuple[Environment, ...]
    jobs: tuple[Job, ...]


class Mismatch(Struct, frozen=True, kw_only=True):
    """Something that two runs do not have in common."""

    name: str
    base: str
    new: str

    def __str__(self) -> str:
        return f"{self.name.replace('_', ' ')} ({self.base} and {self.new})"


def mismatches(base: Circumstances, new: Circumstances) -> list[Mismatch]:
    """Name what differs in the machine, in torch and its flags, in the protocol and in the seed, each once."""
    told: dict[str, Mismatch] = {}
    for name, one, other in (*_of_machines(base, new), *_of_protocols(base, new), *_of_seeds(base, new)):
        if one != other:
            told.setdefault(name, Mismatch(name=name, base=_text(one), new=_text(other)))
    return list(told.values())


def elsewhere(environments: Iterable[Environment], machine: Environment) -> list[Mismatch]:
    """Name in what the machines, and the software, that a run was measured with differ from this one; each once."""
    there, here = (Circumstances(environments=tuple(each), jobs=()) for each in (environments, (machine,)))
    return mismatches(there, here)


def _of_machines(base: Circumstances, new: Circumstances) -> Iterator[Sides]:
    one, other = base.environments, new.environments
    for name in _OF_THE_MACHINE:
        yield name, _values(name, one), _values(name, other)
    for flag in dict.fromkeys(flag for each in (*one, *other) for flag in each.flags):
        yield flag, {each.flags.get(flag) for each in one}, {each.flags.get(flag) for each in other}


def _of_protocols(base: Circumstances, new: Circumstances) -> Iterator[Sides]:
    """Compare how the probes that both runs have were taken."""
    one, other = _protocols(base.jobs), _protocols(new.jobs)
    for probe in one.keys() & other.keys():
        for name in Protocol.__struct_fields__:
            if name not in _NOT_OF_A_SAMPLE:
                yield name, _values(name, one[probe]), _values(name, other[probe])


def _of_seeds(base: Circumstances, new: Circumstances) -> Iterator[Sides]:
    yield "seed", {job.case.seed for job in base.jobs}, {job.case.seed for job in new.jobs}


def _values(name: str, structs: Iterable[Struct]) -> set[object]:
    return {getattr(each, name) for each in structs}


def _protocols(jobs: Iterable[Job]) -> dict[str, list[Protocol]]:
    found: dict[str, dict[Protocol, None]] = {}
    for job in jobs:
        found.setdefault(job.probe.kind, {})[job.protocol] = None
    return {probe: list(protocols) for probe, protocols in found.items()}


def _text(values: set[object]) -> str:
    return " or ".join(sorted("none" if value is None else _word(value) for value in values)) or "unknown"


def _word(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
