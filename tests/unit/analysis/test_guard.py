import pytest
from msgspec.structs import replace

from attnbench.analysis.guard import Circumstances, mismatches
from helpers.planted import ENVIRONMENT, job

BASE = Circumstances(environments=(replace(ENVIRONMENT, flags={"precision": "highest"}),), jobs=(job(), job(number=2)))


def named(**changes):
    other = replace(BASE, **changes)
    return [str(each) for each in mismatches(BASE, other)]


def machine(**changes):
    return named(environments=(replace(BASE.environments[0], **changes),))


def protocol(**changes):
    return named(jobs=tuple(replace(each, protocol=replace(each.protocol, **changes)) for each in BASE.jobs))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"device": "cuda:0"}, "device (cpu and cuda:0)"),
        ({"device_name": "H200"}, "device name (unknown and H200)"),
        ({"driver": "570.1"}, "driver (none and 570.1)"),
        ({"torch": "2.11.0"}, "torch (2.13.0 and 2.11.0)"),
        ({"threads": 1}, "threads (2 and 1)"),
        ({"allocator": "retained"}, "allocator (default and retained)"),
        ({"flags": {"precision": "high"}}, "precision (highest and high)"),
        ({"flags": {}}, "precision (highest and none)"),
    ],
)
def test_differences_of_the_machines_are_named(changes, told):
    assert machine(**changes) == [told]


@pytest.mark.parametrize("changes", [{"commit": "abc"}, {"attnbench": "0.2.0"}, {"cores": 64}, {"python": "3.13"}])
def test_other_code_of_attnbench_and_facts_without_effect_on_figures_are_no_mismatch(changes):
    assert machine(**changes) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"min_time_s": 0.5, "cap_s": 30.0}, ["min time s (0.2 and 0.5)", "cap s (5.0 and 30.0)"]),
        ({"hot": True}, ["hot (false and true)"]),
        ({"rounds": 10, "timeout_s": 9.0, "profile": "rigorous"}, []),
    ],
)
def test_how_samples_are_taken_must_agree_and_their_number_need_not(changes, told):
    assert protocol(**changes) == told


def test_a_difference_that_shows_in_many_places_is_reported_once():
    jobs = tuple(replace(each, protocol=replace(each.protocol, threads=1)) for each in BASE.jobs)
    assert len(named(jobs=jobs, environments=(replace(BASE.environments[0], threads=1),))) == 1


def test_probes_that_only_one_run_has_are_no_mismatch_and_another_seed_is():
    memory = replace(job(kind="memory"), protocol=replace(job().protocol, hot=True))
    assert named(jobs=(*BASE.jobs, memory)) == []
    assert named(jobs=tuple(replace(each, case=replace(each.case, seed=7)) for each in BASE.jobs)) == ["seed (0 and 7)"]
