from attnbench.analysis.refuted import without_refuted
from attnbench.analysis.rows import rows
from attnbench.contracts.record import Origin
from unit.report.planted import failed, job, record, timing, value

WRONG = "it calls itself exact and errs by 22 in output"


def measured(passes="forward", seq=512):
    memory = record(job("wrong", "memory", seq=seq, passes=passes), value(1024, "memory", "bytes"))
    return [timing(job("wrong", seq=seq, passes=passes), 1e-3), memory]


def judged(passes="forward"):
    return failed(job("wrong", "agreement", passes=passes), "invalid_output", WRONG)


def test_what_a_wrong_output_costs_is_no_figure_and_the_reason_stands_in_its_place():
    kept = without_refuted(rows([*measured(), *measured(seq=1024), judged()]))
    there = [row for row in kept if row.case.length == 512]
    assert {row.metric for row in there} == {"latency", "memory", "approximation_error"}
    assert {(row.value, row.status, row.detail, row.samples) for row in there} == {(None, "invalid_output", WRONG, 0)}
    assert all(row.value is not None for row in kept if row.case.length == 1024)


def test_a_wrong_gradient_refutes_the_passes_that_compute_it_and_a_wrong_output_all_of_them():
    every = [*measured(), *measured("backward"), *measured("forward-backward")]
    for wrong, refuted in (
        ("backward", {"backward", "forward-backward"}),
        ("forward", {"forward", "backward", "forward-backward"}),
    ):
        kept = without_refuted(rows([*every, judged(wrong)]))
        costs = [row for row in kept if row.metric == "latency"]
        assert {row.case.passes for row in costs if row.value is None} == refuted


def test_a_judgement_of_another_source_of_the_plugin_refutes_nothing():
    before, after = (Origin(path="p.py", source_hash=source) for source in "ab")
    edited = record(job("wrong", origin=after), value(1))
    old = failed(job("wrong", "agreement", origin=before), "invalid_output", WRONG)
    (row,) = [row for row in without_refuted(rows([edited, old])) if row.metric == "latency"]
    assert row.value is not None
