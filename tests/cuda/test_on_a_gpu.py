"""What only a GPU can show: `pytest -m cuda` on a machine that has one; elsewhere all of it is skipped."""
# B batch, H heads, T queries, S keys, D head dimension

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from statistics import median

import pytest
import torch
from msgspec.structs import replace

from attnbench.contracts.case import Mask, Shape
from attnbench.contracts.record import Job, Outcome, ProbeKind
from attnbench.contracts.variant import support_of
from attnbench.execute import worker
from attnbench.execute.executor import Finished
from attnbench.execute.local import LocalExecutor
from attnbench.measure.nvml import Gpu
from attnbench.measure.timing import CudaTimer
from attnbench.measure.workload import Workload
from attnbench.plugins.registry import find, load
from helpers.planted import job
from laws.workloads import MECHANISMS

DEVICE = "cuda:0"
SMALL = Shape(batch=1, heads=4, kv_heads=4, seq_q=512, seq_k=512, head_dim=64)
LARGE = Shape(batch=4, heads=8, kv_heads=8, seq_q=4096, seq_k=4096, head_dim=64)
REPEATS = 30

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("default"),  # a kernel library's warnings are its own
]


def planned(name: str, kind: ProbeKind = "latency", *, shape: Shape = SMALL, **changes: object) -> Job:
    base = job(name, kind=kind)
    target = name if ":" in name else find(name, "variants", flag="").target
    case = {"shape": shape, "dtype": "bfloat16", "device": DEVICE} | changes
    return replace(base, case=replace(base.case, **case), target=target, protocol=replace(base.protocol, threads=1))


def measured(*words: str, **changes: object) -> Outcome:
    return worker.perform(planned(*words, **changes), lambda _text: None)


def values(outcome: Outcome, metric: str) -> tuple[float, ...]:
    (found,) = [one.values for one in outcome.measurements if one.metric == metric]
    return found


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    yield
    torch.cuda.empty_cache()


def captured(calls: list[Callable[[], object]]) -> torch.cuda.CUDAGraph:
    """Capture calls in one graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in calls * 3:
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph


def replayed_ns(graph: torch.cuda.CUDAGraph, flush: torch.Tensor, *, times: int) -> float:
    """Time a graph between two events, behind work that is longer than its launch."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    flush.zero_()
    start.record()
    for _ in range(times):
        graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e6 / times


@pytest.mark.parametrize("name", ["vanilla", "flash"])
@pytest.mark.parametrize("hot", [False, True])
def test_the_event_clock_agrees_with_the_replay_of_a_graph_within_two_percent(name: str, hot: bool) -> None:
    wanted = planned(name, shape=LARGE)
    workload, sets = Workload.of(wanted), 3
    timer = CudaTimer(workload.calls, workload.keep, DEVICE, hot=hot, synchronises=False)
    flush = torch.empty(256 << 20, dtype=torch.int8, device=DEVICE)
    with torch.no_grad():
        for _ in range(sets):
            timer.run(1)  # examined, so that no later call is
        graph = captured(list(workload.calls(sets if hot else 1)))
        calls, group = (sets, 10) if hot else (1, 1)
        begun = time.perf_counter()
        while time.perf_counter() - begun < 1.0:
            timer.run(calls * group)
        pairs = [
            (timer.run(calls * group) / (calls * group), replayed_ns(graph, flush, times=group) / calls)
            for _ in range(REPEATS)
        ]
    by_events, by_replay = (median(side) for side in zip(*pairs, strict=True))
    print(f"{name}, {'hot' if hot else 'cold'}: {by_events / 1e3:.1f} us by events, {by_replay / 1e3:.1f} us by replay")
    assert by_replay > 100_000, "too short to be held to 2%"
    assert by_events == pytest.approx(by_replay, rel=0.02)


@pytest.mark.parametrize("name", sorted(MECHANISMS))
@pytest.mark.parametrize("passes", ["forward", "forward-backward"])
@pytest.mark.parametrize("kind", ["latency", "memory", "agreement"])
def test_every_variant_is_measured_or_says_why_not(name: str, passes: str, kind: ProbeKind) -> None:
    if kind == "agreement" and passes == "forward-backward":
        passes = "backward"
    outcome = measured(name, kind, passes=passes)
    assert outcome.status in ("ok", "unsupported"), (outcome.detail, outcome.log)
    if outcome.status == "unsupported":
        pytest.skip(outcome.detail)
    assert outcome.measurements[0].values[0] >= 0


LONG = Shape(batch=1, heads=4, kv_heads=4, seq_q=512, seq_k=1000, head_dim=64)
EXACT = sorted(name for name, entry in MECHANISMS.items() if support_of(load(entry.target)).exact)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("passes", ["forward", "backward"])
@pytest.mark.parametrize(
    ("shape", "mask"),
    [
        (SMALL, Mask(causal=True)),
        (SMALL, Mask(causal=True, window=100)),
        (SMALL, Mask(window=100)),
        (replace(SMALL, kv_heads=2), Mask()),
        (replace(SMALL, kv_heads=2), Mask(causal=True)),
        (LONG, Mask()),
        (LONG, Mask(causal=True)),
    ],
    ids=["causal", "causal-window", "window", "grouped", "causal-grouped", "fewer-queries", "causal-fewer-queries"],
)
def test_an_exact_kernel_is_exact_under_every_mask_or_says_why_not(
    name: str, passes: str, shape: Shape, mask: Mask
) -> None:
    outcome = measured(name, "agreement", shape=shape, mask=mask, passes=passes)
    assert outcome.status in ("ok", "unsupported"), (outcome.detail, outcome.log)
    if outcome.status == "unsupported":
        pytest.skip(outcome.detail)


def test_the_same_measurement_twice_gives_the_same_figure() -> None:
    one, other = (median(values(measured("flash", shape=LARGE), "latency")) for _ in range(2))
    assert one == pytest.approx(other, rel=0.05)


def test_device_time_is_no_longer_than_what_a_caller_waits() -> None:
    outcome = measured("flash", shape=LARGE)
    assert median(values(outcome, "latency")) <= 1.02 * median(values(outcome, "latency_wall"))


def test_the_clock_is_up_and_its_facts_are_told_or_say_why_not() -> None:
    facts = measured("flash", shape=LARGE).facts
    print(facts)
    for name in ("sm_clock_mhz", "sm_clock_default_mhz", "temperature_c", "throttle"):
        assert facts[name] is not None or "nvml_unread" in facts, name
    if facts["sm_clock_mhz"] and facts["sm_clock_default_mhz"]:
        assert facts["sm_clock_mhz"] >= 0.75 * facts["sm_clock_default_mhz"] or facts["discarded"]


def test_peak_memory_is_what_a_mechanism_allocates(tmp_path: Path) -> None:
    scratch_bytes = 64 << 20
    file = tmp_path / "takes.py"
    file.write_text(
        "import torch\n"
        "def takes(q, k, v):\n"
        f"    scratch = torch.ones({scratch_bytes}, dtype=torch.uint8, device=q.device)\n"
        "    return v * scratch[0]\n"
    )
    outcome = measured(f"{file}:takes", "memory")
    assert outcome.status == "ok", (outcome.detail, outcome.log)
    out_bytes = SMALL.batch * SMALL.heads * SMALL.seq_q * SMALL.head_dim * 2
    (peak,) = values(outcome, "memory")
    assert scratch_bytes + out_bytes <= peak <= scratch_bytes + out_bytes + 4096
    assert values(outcome, "memory_reserved")[0] >= peak
    known = [one for one in outcome.measurements if one.metric == "memory_driver"]
    assert known or (outcome.facts["memory_driver"] is None and outcome.facts["nvml_unread"])


def test_energy_per_call_agrees_with_the_power_that_the_driver_tells() -> None:
    base = planned("flash", "energy", shape=LARGE)
    quick = replace(base, protocol=replace(base.protocol, profile="quick"))
    outcome = worker.perform(quick, lambda _text: None)
    if outcome.status == "unsupported":
        assert Gpu(DEVICE).energy_j is None, outcome.detail
        pytest.skip(outcome.detail)
    assert outcome.status == "ok", (outcome.detail, outcome.log)
    (joules,) = values(outcome, "energy")
    power = outcome.facts["average_power_w"]
    print(f"{joules * 1e3:.1f} mJ a call, {power} W by the counter, {outcome.facts['power_w']} W at the end")
    assert joules == pytest.approx(power * outcome.facts["window_s"] / outcome.facts["window_calls"], rel=0.01)
    if outcome.facts["power_w"]:
        assert power == pytest.approx(outcome.facts["power_w"], rel=0.3)


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (
            "torch.zeros(4, device=q.device)[torch.full((4,), 10**6, device=q.device)]; return v * 1",
            "error",
            "CUDA error",
        ),
        ("return v + torch.empty(1 << 50, dtype=torch.uint8, device=q.device)[0]", "oom_device", "Tried to allocate"),
    ],
    ids=["sticky", "oom"],
)
def test_a_fault_on_the_device_is_a_record_and_the_next_case_is_measured(
    tmp_path: Path, body: str, status: str, reason: str
) -> None:
    file = tmp_path / "faulty.py"
    file.write_text(f"import torch\ndef faulty(q, k, v):\n    {body}\n")
    with closing(LocalExecutor()) as executor:
        jobs = [planned(f"{file}:faulty"), planned("vanilla")]
        bad, good = (event.outcome for event in executor.run(iter(jobs)) if isinstance(event, Finished))
    assert (bad.status, reason in bad.detail) == (status, True), (bad.detail, bad.log)
    assert good.status == "ok", (good.detail, good.log)
