"""The jobs of a sweep: the product of its axes, mistakes in it, and the order of its rounds."""

from itertools import pairwise

import msgspec
import pytest
from msgspec.structs import replace

from attnbench.contracts.case import Mask, Shape
from attnbench.contracts.errors import UsageError
from attnbench.contracts.lengths import ByLength
from attnbench.contracts.reach import Span
from attnbench.contracts.record import Job, Origin
from attnbench.contracts.suite import Sweep
from attnbench.planning.cases import cases
from attnbench.planning.jobs import Conditions, in_running_order, plan_jobs
from attnbench.planning.metrics import probes_of
from attnbench.planning.request import PROFILES
from attnbench.planning.tasks import PlannedTask
from attnbench.planning.variants import Candidate, Role

SWEEP = Sweep(variants="a,b", seq="512..2048", heads=8, head_dim=64, batch=1)
A, B = (Candidate(name=name, target=f"m:{name}", origin=Origin(), options={}) for name in "ab")
FLOOR = Candidate(name="empty", target="attnbench.plugins.empty:Empty", origin=Origin(), options={})
CONDITIONS = Conditions(device="cpu", protocol=PROFILES["default"], floor=FLOOR)


def jobs_of(
    sweep: Sweep, *, conditions: Conditions = CONDITIONS, tasks: tuple[PlannedTask, ...] = ()
) -> tuple[Job, ...]:
    return plan_jobs(cases(sweep), probes_of(sweep), candidates=[A, B], tasks=tasks, conditions=conditions)


def test_every_combination_of_the_axes_is_a_case_for_every_variant() -> None:
    jobs = jobs_of(replace(SWEEP, heads="4,8", passes="forward,backward", dtype="float32,bfloat16"))
    cases = {job.case.key for job in jobs if job.case.variant == "a"}
    assert len(cases) == 3 * 2 * 2 * 2


def test_an_option_that_follows_the_length_has_its_value_at_each_length_and_no_other_option_changes() -> None:
    options = {"k": 256, "sharing": "none"}
    follows = replace(A, options=options, by_length={"k": ByLength(divisor=8, most=128)})
    jobs = plan_jobs(cases(SWEEP), ["memory"], candidates=[follows, B], tasks=[], conditions=CONDITIONS)
    found = {job.case.shape.seq_k: job.case.options for job in jobs if job.case.variant == "a"}
    assert found == {length: options | {"k": k} for length, k in ((512, 64), (1024, 128), (2048, 128))}


def test_a_variant_with_a_role_is_trained_on_its_tasks_only_and_costs_are_not_measured_unless_they_are_its_part() -> (
    None
):
    other = replace(TASK, name="riddles", label="riddles:preset=tiny")
    candidates = [
        replace(A, role=Role(tasks=("riddles",), costs=False)),
        replace(B, role=Role(tasks=(TASK.name,))),
    ]
    jobs = plan_jobs(
        cases(SWEEP), ["memory", "accuracy"], candidates=candidates, tasks=[TASK, other], conditions=CONDITIONS
    )
    found = {(job.case.variant, job.probe.kind, job.probe.task) for job in jobs}
    assert found == {("a", "accuracy", other.label), ("b", "accuracy", TASK.label), ("b", "memory", "")}


def test_a_job_has_the_key_that_it_has_when_its_plan_is_read_back() -> None:
    typed = {"dtype": "float32", "passes": "forward", "level": "core", "inputs": "normal"}
    sweep = replace(SWEEP, **{name: f" {word}" for name, word in typed.items()})  # texts of their own, not ours
    for job in jobs_of(sweep):
        assert msgspec.json.decode(msgspec.json.encode(job), type=Job).key == job.key


def test_each_round_holds_every_timed_case_once_in_an_order_of_its_own() -> None:
    jobs = in_running_order(jobs_of(SWEEP))
    rounds = [[job.question for job in jobs if job.round == number] for number in range(1, 6)]
    assert all(sorted(one) == sorted(rounds[0]) for one in rounds)
    assert any(one != other for one, other in pairwise(rounds))
    assert [job.round for job in jobs] == sorted(job.round for job in jobs)


def test_in_the_first_round_each_baseline_comes_before_its_twin_and_later_either_may() -> None:
    jobs = in_running_order(jobs_of(replace(SWEEP, heads="2,4,8,16")))

    def twin_is_later(number: int) -> set[bool]:
        places: dict[str, dict[bool, int]] = {}
        for place, job in enumerate(job for job in jobs if job.round == number):
            places.setdefault(job.case.key, {})[job.probe.twin] = place
        return {pair[True] > pair[False] for pair in places.values() if len(pair) == 2}

    assert twin_is_later(1) == {True}
    assert any(twin_is_later(number) == {True, False} for number in range(2, 6))


def test_the_order_follows_from_the_seed() -> None:
    assert in_running_order(jobs_of(SWEEP)) == in_running_order(jobs_of(SWEEP))
    other = in_running_order(jobs_of(SWEEP, conditions=replace(CONDITIONS, seed=1)))
    assert [job.case.variant for job in other] != [job.case.variant for job in in_running_order(jobs_of(SWEEP))]


def test_the_plan_itself_keeps_the_variants_in_the_order_asked() -> None:
    names = list(dict.fromkeys(job.case.variant for job in jobs_of(SWEEP)))
    assert names == ["empty", "a", "b"]


def test_the_harness_own_floor_is_timed_in_every_run_and_only_timed() -> None:
    floor = [job for job in jobs_of(replace(SWEEP, metrics="latency,memory,agreement")) if job.case.variant == "empty"]
    assert {job.probe.kind for job in floor} == {"latency"}
    assert {job.round for job in floor} == {1, 2, 3, 4, 5}


def test_the_baseline_is_timed_twice_in_every_round_under_two_names() -> None:
    twins = [job for job in jobs_of(replace(SWEEP, metrics="latency,memory,agreement")) if job.probe.twin]
    assert {(job.case.variant, job.probe.kind) for job in twins} == {("a", "latency")}
    once = [job for job in jobs_of(SWEEP) if job.case.variant == "a" and not job.probe.twin]
    assert sorted((job.case.key, job.round) for job in twins) == sorted((job.case.key, job.round) for job in once)
    assert not {job.key for job in twins} & {job.key for job in once}


def test_with_too_few_rounds_for_a_verdict_nothing_is_timed_twice() -> None:
    quick = replace(CONDITIONS, protocol=PROFILES["quick"])
    assert not [job for job in jobs_of(SWEEP, conditions=quick) if job.probe.twin]


def test_memory_and_agreement_run_in_one_round_after_the_timed_ones() -> None:
    kinds = [job.probe.kind for job in jobs_of(replace(SWEEP, metrics="agreement,latency,memory"))]
    assert kinds == sorted(kinds, key=["latency", "memory", "agreement"].index)
    assert kinds.count("memory") == kinds.count("agreement") == 6


def test_a_backward_sweep_measures_memory_with_the_forward_pass_and_agreement_of_output_and_gradients() -> None:
    jobs = jobs_of(replace(SWEEP, passes="backward", metrics="memory,agreement"))
    passes = {(job.probe.kind, job.case.passes) for job in jobs}
    assert passes == {("memory", "forward-backward"), ("agreement", "forward"), ("agreement", "backward")}


def test_decode_asks_one_query_against_all_keys() -> None:
    shapes = {(job.case.shape.seq_q, job.case.shape.seq_k) for job in jobs_of(replace(SWEEP, passes="decode"))}
    assert shapes == {(1, 512), (1, 1024), (1, 2048)}


def test_tokens_make_the_batch_and_width_makes_the_head_dimension() -> None:
    sweep = replace(SWEEP, batch=None, tokens=4096, head_dim=None, width=512, heads="4,8")
    shapes = [case.shape for case in cases(sweep)]
    assert {(shape.seq_q, shape.batch) for shape in shapes} == {(512, 8), (1024, 4), (2048, 2)}
    assert {(shape.heads, shape.head_dim) for shape in shapes} == {(4, 128), (8, 64)}


def test_accuracy_has_the_shape_of_its_task_and_a_job_for_each_seed() -> None:
    shape = Shape(batch=64, heads=2, kv_heads=2, seq_q=64, seq_k=64, head_dim=32)
    task = PlannedTask(
        name="recall",
        label="recall:preset=tiny",
        target="t:Recall",
        origin=Origin(),
        options={"length": 64},
        shape=shape,
        mask=Mask(causal=True),
        seeds=3,
    )
    jobs = jobs_of(replace(SWEEP, metrics="accuracy", heads="4,16"), tasks=(task,))
    assert len(jobs) == 2 * 3
    assert {job.case.shape for job in jobs} == {shape}
    assert {job.case.passes for job in jobs} == {""}
    assert {job.protocol.threads for job in jobs} == {1}
    assert all(job.case.mask.causal for job in jobs)


@pytest.mark.parametrize(
    ("change", "flag", "fix"),
    [
        ({"kv_heads": 3}, "--kv-heads", "multiple"),
        ({"head_dim": None, "width": 100}, "--width", "multiple of 8"),
        ({"batch": None, "tokens": 1000}, "--tokens", "--tokens 1024"),
        ({"seq": "4096..512"}, "--seq", "512..16384 (doubling)"),
        ({"seq": ""}, "--seq", "512..16384 (doubling)"),
        ({"dtype": "float31"}, "--dtype", "float32"),
        ({"passes": "foward"}, "--passes", "'forward'"),
        ({"metrics": "speed"}, "--metrics", "latency"),
        ({"heads": None}, "--heads", "add --heads"),
    ],
)
def test_a_mistake_in_a_sweep_names_the_flag_and_the_fix(change: dict[str, object], flag: str, fix: str) -> None:
    with pytest.raises(UsageError) as caught:
        jobs_of(replace(SWEEP, **change))
    assert str(caught.value).startswith(flag)
    assert fix in str(caught.value)


def test_energy_is_measured_once_alone_after_the_timed_rounds_and_a_backward_pass_with_its_forward_pass() -> None:
    jobs = jobs_of(replace(SWEEP, passes="backward", metrics="energy,latency"))
    energies = [job for job in jobs if job.probe.kind == "energy"]
    assert jobs[-len(energies) :] == tuple(energies)
    assert all(job.timed and job.round == 1 for job in energies)
    assert {job.case.passes for job in energies} == {"forward-backward"}


TASK = PlannedTask(
    name="recall",
    label="recall:preset=tiny",
    target="m:Recall",
    origin=Origin(),
    options={"learning_rate": 1e-3, "seeds": 1, "rates": 1},
    shape=Shape(batch=8, heads=1, kv_heads=1, seq_q=128, seq_k=128, head_dim=64),
    mask=Mask(),
    seeds=1,
)
SPARSE = Candidate(
    name="sparse", target="m:Sparse", origin=Origin(), options={"block": 64, "globals": 1}, spans={"block": Span()}
)


def trained(*, costed: int) -> Job:
    sweep = replace(SWEEP, metrics="accuracy", tasks="recall")
    conditions = replace(CONDITIONS, costed=costed)
    (job,) = plan_jobs(cases(sweep), probes_of(sweep), candidates=[SPARSE], tasks=[TASK], conditions=conditions)
    return job


def test_a_variant_is_trained_with_the_share_of_keys_that_it_sees_at_the_longest_costed_length() -> None:
    job = trained(costed=4096)
    assert job.probe.scaled == {"block": 2, "globals": 1}
    assert job.case.options == {"block": 64, "globals": 1}


@pytest.mark.parametrize("costed", [0, 64, 128])
def test_options_stay_where_nothing_longer_than_the_task_is_costed(costed: int) -> None:
    job = trained(costed=costed)
    assert job.probe.scaled == {}
    assert "scaled" not in msgspec.to_builtins(job.probe)
