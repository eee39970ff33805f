"""The probes in this process: what they find for mechanisms whose figures can be worked out by hand."""

from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from attnbench.contracts.case import Mask, Shape
from attnbench.contracts.record import Job, Outcome, ProbeKind
from attnbench.contracts.variant import InvalidOutput
from attnbench.measure import agreement, failure, latency, memory
from attnbench.plugins.registry import find
from helpers.planted import SHAPE, job
from helpers.subtests import as_subtests

FAULTY = Path(__file__).parents[2] / "plugins" / "faulty.py"
FLOAT = 4


def measured(name: str, kind: ProbeKind, *, seq: int = 256, **case: object) -> Outcome:
    planned = job_of(name, kind, seq=seq, **case)
    probes = {"latency": latency.measure, "memory": memory.measure, "agreement": agreement.measure}
    return probes[kind](planned, lambda _text: None)


def job_of(name: str, kind: ProbeKind, *, seq: int = 256, **case: object) -> Job:
    planned = job(name, kind=kind, seq=seq)
    target = f"{FAULTY}:{name}" if name[0].isupper() else find(name, "variants", flag="").target
    return replace(planned, case=replace(planned.case, **case), target=target)


def figure(outcome: Outcome, metric: str) -> float:
    (found,) = [measurement for measurement in outcome.measurements if measurement.metric == metric]
    assert found.values[0] is not None
    return found.values[0]


@as_subtests("seq", [256, 512])
def test_peak_memory_of_a_plain_softmax_is_its_tensors_by_hand_count(seq: int) -> None:
    # The scores, the scores over sqrt(D) while both are alive, then the softmax beside the scaled scores.
    scores = SHAPE.heads * seq * seq * FLOAT
    keys_transposed_for_bmm = SHAPE.heads * seq * SHAPE.head_dim * FLOAT
    peak = figure(measured("Good", "memory", seq=seq), "memory")
    assert 2 * scores <= peak <= 2 * scores + keys_transposed_for_bmm


def test_peak_memory_is_the_same_to_the_byte_from_run_to_run() -> None:
    assert len({figure(measured("vanilla", "memory"), "memory") for _ in range(3)}) == 1


def test_memory_of_flash_is_linear_in_the_sequence() -> None:
    peaks = [figure(measured("flash", "memory", seq=seq), "memory") for seq in (512, 1024, 2048)]
    assert peaks[2] < 3 * peaks[1] < 9 * peaks[0]


def test_a_buffer_that_is_kept_shows_in_the_first_call_only(tmp_path: Path) -> None:
    kept = tmp_path / "kept.py"
    kept.write_text(
        "import torch\n"
        "class Kept:\n"
        "    buffer = None\n"
        "    def __init__(self, case): pass\n"
        "    def __call__(self, q, k, v):\n"
        "        if self.buffer is None: self.buffer = torch.zeros(1 << 22)\n"
        "        return v + self.buffer[0]\n"
    )
    planned = replace(job_of("Good", "memory"), target=f"{kept}:Kept")
    outcome = memory.measure(planned, lambda _text: None)
    assert figure(outcome, "memory_first_call") - figure(outcome, "memory") == pytest.approx(
        (1 << 22) * FLOAT, rel=0.01
    )


@as_subtests("where", ["__init__", "__call__"])
def test_a_table_that_a_mechanism_holds_is_its_own_whether_built_at_first_or_by_the_first_call(
    tmp_path: Path, where: str
) -> None:
    table = tmp_path / f"{where}.py"
    table.write_text(
        "import torch\n"
        "class Table:\n"
        "    table = None\n"
        f"    def __init__(self, case): {'self.fill()' if where == '__init__' else 'pass'}\n"
        "    def fill(self): self.table = torch.zeros(1 << 22)\n"
        "    def __call__(self, q, k, v):\n"
        "        if self.table is None: self.fill()\n"
        "        return v + self.table[0]\n"
    )
    for passes in ("forward", "forward-backward"):
        planned = job_of("Good", "memory", passes=passes)
        outcome = memory.measure(replace(planned, target=f"{table}:Table"), lambda _text: None)
        assert outcome.facts["own_bytes"] == (1 << 22) * FLOAT
        assert memory.measure(planned, lambda _text: None).facts["own_bytes"] == 0


def test_memory_that_the_allocator_does_not_see_is_flagged(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden.py"
    hidden.write_text(
        "import numpy\ndef hidden(q, k, v):\n    scratch = numpy.ones(1 << 23)\n    return v * float(scratch[-1])\n"
    )
    planned = replace(job_of("Good", "memory"), target=f"{hidden}:hidden")
    (peak, *_) = memory.measure(planned, lambda _text: None).measurements
    assert "unseen_memory" in peak.flags


@as_subtests("passes", ["forward", "backward"])
@as_subtests("mask", [Mask(), Mask(causal=True), Mask(causal=True, window=100)])
def test_the_plain_formula_agrees_with_itself_within_rounding(passes: str, mask: Mask) -> None:
    outcome = measured("vanilla", "agreement", passes=passes, mask=mask)
    assert figure(outcome, "approximation_error") < 1e-6
    assert figure(outcome, "cosine") == pytest.approx(1.0)
    assert figure(outcome, "numerical_error") < 1e-6


def test_the_error_of_a_mechanism_that_returns_zeros_is_one(tmp_path: Path) -> None:
    zeros = tmp_path / "zeros.py"
    zeros.write_text("def zeros(q, k, v):\n    return 1e-3 * v / v.norm()\n")
    planned = replace(job_of("Good", "agreement"), target=f"{zeros}:zeros")
    assert figure(agreement.measure(planned, lambda _text: None), "approximation_error") == pytest.approx(1.0, abs=1e-3)


def test_beyond_2048_the_error_is_taken_on_rows_drawn_from_the_seed() -> None:
    outcome = measured(
        "flash", "agreement", seq=3000, shape=replace(SHAPE, heads=1, kv_heads=1, seq_q=3000, seq_k=3000)
    )
    assert outcome.facts["rows"] == 256
    assert figure(outcome, "approximation_error") < 1e-6


def test_on_the_chosen_rows_gradients_agree_too() -> None:
    shape = replace(SHAPE, heads=1, kv_heads=1, seq_q=2100, seq_k=2100, head_dim=16)
    outcome = measured("flash", "agreement", passes="backward", shape=shape, mask=Mask(causal=True))
    for metric in ("approximation_error", "approximation_error_dq", "approximation_error_dk", "approximation_error_dv"):
        assert figure(outcome, metric) < 1e-5


def test_low_precision_shows_as_numerical_error() -> None:
    outcome = measured("flash", "agreement", dtype="bfloat16")
    assert 1e-4 < figure(outcome, "numerical_error") < 1e-1


def test_what_calls_itself_exact_and_is_not_is_refused(tmp_path: Path) -> None:
    liar = tmp_path / "liar.py"
    liar.write_text(
        "import torch, attnbench\n"
        "class Liar:\n"
        "    supports = attnbench.Support(exact=True)\n"
        "    def __init__(self, case): pass\n"
        "    def __call__(self, q, k, v):\n"
        "        return torch.softmax(q @ k.transpose(-1, -2) / 8.01, -1) @ v\n"
    )
    planned = replace(job_of("Good", "agreement"), target=f"{liar}:Liar")
    with pytest.raises(InvalidOutput, match="calls itself exact"):
        agreement.measure(planned, lambda _text: None)


@as_subtests("passes", ["forward", "backward", "forward-backward", "decode"])
def test_latency_of_every_pass_is_measured(passes: str) -> None:
    shape = replace(SHAPE, seq_q=1 if passes == "decode" else 64, seq_k=64)
    outcome = measured("vanilla", "latency", passes=passes, shape=shape)
    (samples,) = [one.values for one in outcome.measurements if one.metric == "latency"]
    assert len(samples) >= 20
    assert all(isinstance(value, int) and value > 0 for value in samples)


def test_grouped_heads_and_cross_attention_are_measured_and_agree() -> None:
    shape = Shape(batch=2, heads=4, kv_heads=2, seq_q=33, seq_k=65, head_dim=16)
    assert figure(measured("flash", "agreement", shape=shape), "approximation_error") < 1e-6


def test_a_process_measured_leaves_no_gradient_behind() -> None:
    outcome = measured("linformer", "agreement", passes="backward", seq=300)
    assert figure(outcome, "numerical_error") < 1e-4
    assert torch.is_grad_enabled()


def test_tied_queries_and_keys_have_two_gradients_and_each_has_its_own_name(tmp_path: Path) -> None:
    tied = tmp_path / "tied.py"
    tied.write_text(
        "import torch, attnbench\n"
        "class Tied:\n"
        "    supports = attnbench.Support(ties_qk=True, exact=True)\n"
        "    def __init__(self, case): pass\n"
        "    def __call__(self, q, k, v):\n"
        "        return torch.softmax(q @ k.transpose(-1, -2) / 8, -1) @ v\n"
    )
    planned = job_of("Good", "agreement", passes="backward")
    outcome = agreement.measure(replace(planned, target=f"{tied}:Tied"), lambda _text: None)
    gradients = {one.metric: one.values[0] for one in outcome.measurements if "_d" in one.metric}
    assert gradients.keys() == {"approximation_error_dq", "approximation_error_dv"}
    assert max(gradients.values()) < 1e-5


def test_a_numerical_error_that_is_left_out_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = tmp_path / "narrow.py"
    narrow.write_text(
        "import attnbench\n"
        "class Narrow:\n"
        "    supports = attnbench.Support(dtypes=('float32',))\n"
        "    def __init__(self, case): pass\n"
        "    def __call__(self, q, k, v): return v * 1\n"
    )
    planned = replace(job_of("Good", "agreement"), target=f"{narrow}:Narrow")
    outcome = agreement.measure(planned, lambda _text: None)
    assert "numerical_error" not in {one.metric for one in outcome.measurements}
    assert outcome.facts["numerical_error"] == "in float64: dtype float64 is not served (only float32)"
    monkeypatch.setattr(agreement, "_LONGEST_CALL_S", 0.0)
    assert "a call took" in str(measured("Good", "agreement").facts["numerical_error"])


def test_memory_that_the_reference_lacks_is_not_blamed_on_the_mechanism(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_tensors: torch.Tensor, **_options: object) -> torch.Tensor:
        raise MemoryError

    monkeypatch.setattr(agreement, "exact_attention", no_room)
    with pytest.raises(MemoryError) as caught:
        measured("Good", "agreement")
    assert failure.reason(caught.value) == "the float64 reference needed more memory than was free"
