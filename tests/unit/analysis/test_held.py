from msgspec.structs import replace

from attnbench.analysis.held import TOTAL, with_totals
from attnbench.analysis.pareto import fronts, shown_metrics
from attnbench.analysis.rows import rows
from attnbench.analysis.scaling import growths
from attnbench.analysis.summary import summarise
from attnbench.answers.recommend.needs import Needs
from attnbench.answers.recommend.ranking import recommend
from attnbench.contracts.case import Case
from attnbench.contracts.record import OWN
from unit.analysis.courses_planted import sweep
from unit.report.planted import OWN as ATTNBENCH
from unit.report.planted import failed, job, record, shape, value

LENGTHS = (512, 1024, 2048)
MIB = 2**20


def memories(variant, peak, own):
    """Make the memory records of a variant whose peak is small, and which holds something of a size for each length."""
    return [
        record(job(variant, "memory", seq=seq), value(peak(seq), "memory", "bytes"), facts={OWN: own(seq)})
        for seq in LENGTHS
    ]


PLAIN = memories("plain", lambda n: 64 * n, lambda n: 0)
TABLE = memories("table", lambda n: 32 * n, lambda n: 128 * n * n)  # 512 MiB at 2048


def totals(records):
    return {(row.case.variant, row.case.length): row.value for row in with_totals(rows(records)) if row.metric == TOTAL}


def test_a_table_that_a_mechanism_holds_is_a_row_beside_the_peak_for_every_variant():
    found = totals([*PLAIN, *TABLE])
    assert found["table", 2048] == 32 * 2048 + 512 * MIB
    assert found["plain", 2048] == 64 * 2048
    assert len(found) == 6


def test_where_nothing_of_weight_is_held_the_peak_is_the_total_and_there_is_no_further_row():
    light = memories("light", lambda n: 64 * n, lambda n: n // 4)
    assert totals([*PLAIN, *light]) == {}


def test_the_exponent_the_lead_and_the_front_count_what_is_held():
    times = [
        replace(row, facts={})
        for row in sweep({"plain": float, "table": lambda n: 2.0 * n}, lengths=LENGTHS, noise=0.001)
    ]
    found = [*times, *with_totals(rows([*PLAIN, *TABLE]))]
    exponents = {(one.variant, one.metric): round(one.exponent) for one in growths(found)}
    assert (exponents["table", "memory"], exponents["table", TOTAL]) == (1, 2)
    (lead,) = [lead for lead in summarise(found).leads if (lead.best.probe.kind, lead.length) == ("memory", 2048)]
    assert (lead.best.case.variant, lead.sure) == ("plain", True)
    (front,) = [one for one in fronts(found, ("latency", TOTAL)) if one.axes["seq_q"] == 2048]
    assert {point.variant: point.standing for point in front.points} == {"plain": "front", "table": "dominated"}
    assert shown_metrics(front) == ["latency", TOTAL]


def test_a_recommendation_within_a_memory_counts_what_is_held():
    times = sweep({"plain": lambda n: 2e-6 * n, "table": lambda n: 1e-6 * n}, lengths=LENGTHS, origin=ATTNBENCH)
    needs = Needs(memory_bytes=100 * MIB)
    found = recommend([*times, *with_totals(rows([*PLAIN, *TABLE]))], Case(variant="", shape=shape(2048)), needs)
    assert [(line.variant, line.verdict) for line in found.lines] == [("plain", "meets"), ("table", "fails")]
    assert found.lines[1].why == ("needs 512 MiB, 100 MiB allowed",)


def test_a_failure_stands_in_both_tables_and_has_no_total():
    crashed = failed(job("crashing", "memory", seq=512), "crash", "SIGSEGV")
    assert not any(variant == "crashing" for variant, _ in totals([*TABLE, crashed]))
