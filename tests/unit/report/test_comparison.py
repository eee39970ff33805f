import pytest
from msgspec.structs import replace

from attnbench.analysis.compare import compare
from attnbench.analysis.roofline import derived
from attnbench.analysis.rows import rows
from attnbench.report.comparison import FORMATS, blocks, label, printable, summary
from attnbench.report.table import tables
from attnbench.report.terminal import Tables
from helpers.reported import RATES
from helpers.simulated import blank, timed, twin
from unit.report.planted import accuracy_job, failed, job, record, value
from unit.report.scenarios import HOSTILE
from unit.report.test_renderers import printed

STEADY = [1e-3, 1.001e-3, 0.999e-3]


def sweep(*variants, run="base", factor=1.0):
    return [
        timed(blank(name, seq=seq, run=run), [factor * each for each in STEADY])
        for name in variants
        for seq in (64, 512)
    ]


def found(**more):
    base = [*sweep("vanilla", "linear"), *rows([failed(job("flash"), "crash", "SIGSEGV")], run="base")]
    new = [*sweep("vanilla", run="new"), *sweep("linear", run="new", factor=1.1)]
    return compare(base, new, **more)


def test_the_summary_counts_verdicts_and_gives_the_mean_and_the_floor():
    base, noisy = sweep("vanilla"), twin(blank("vanilla", seq=64))
    base.append(timed(noisy, [1.01e-3, 0.99e-3, 1e-3]))
    told = summary(compare(base, sweep("vanilla", run="new")))
    assert told == ["base base, new new", "latency: 2 of 2 same; geometric mean x1.000 [0.998, 1.002]; A/A floor 1.7%"]


def test_a_comparison_without_pairs_says_that_there_is_nothing_to_compare():
    assert summary(compare([], [])) == ["nothing to compare"]
    assert blocks(compare([], [])) == []


def test_a_line_holds_both_figures_the_ratio_its_interval_and_the_verdict_in_one_unit():
    text = printed(printable(found()))
    assert "Latency, forward: new over base (ms)" in text
    assert "512  linear   1.00  1.10  1.100  1.098  1.102        slower" in text
    assert "512  flash                                     incomparable" in text
    assert "flash: only in the base" in text
    assert max(map(len, text.splitlines())) <= 80


def test_worse_is_red_and_better_is_green_whether_more_or_less_is_better():
    def tones(higher_is_better):
        def turned(row):
            return row and replace(row, higher_is_better=higher_is_better)

        pairs = [replace(pair, base=turned(pair.base), new=turned(pair.new)) for pair in found().pairs]
        (block,) = blocks(replace(found(), pairs=tuple(pairs)))
        return {cell.text: cell.tone for cell in block.cells if not cell.number and cell.text}

    assert tones(False) == {"same": "", "slower": "bad", "incomparable": ""}
    assert tones(True)["slower"] == "good"
    assert "\x1b[31mslower" in printed(printable(found()), colours=True).replace(" ", "")


def test_a_reason_shared_by_all_pairs_is_given_once_and_without_names():
    few = [timed(blank(name, run=run), [1e-3]) for run in ("base", "new") for name in ("vanilla", "linear")]
    (block,) = blocks(compare(few[:2], few[2:]))
    assert block.notes == ("1 round; a verdict needs 3 on each side",)


def test_several_axes_and_tasks_have_columns_of_labels():
    run = [record(job("vanilla", seq=64, heads=heads), value(10**6)) for heads in (4, 8)]
    run += [record(accuracy_job("vanilla"), value(0.5, "accuracy", "1"))]
    text = printed(printable(compare(rows(run), rows(run), variants=None)))
    assert "seq  heads  variant" in text
    assert "task (seq)  variant" in text


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_hostile_names_control_no_terminal_and_break_no_markdown(encoding):
    hostile = compare(sweep(*HOSTILE, run=HOSTILE[3]), sweep(*HOSTILE, run="\N{CJK UNIFIED IDEOGRAPH-6CE8}"))
    text = printed(printable(hostile), encoding=encoding)
    assert not any(sign in text for sign in "\x1b\x00\u202e")
    assert "<script>" not in FORMATS["md"](hostile)
    assert not any(sign in label(pair) for pair in hostile.pairs for sign in "\x1b\x00\n")


def test_the_noise_floor_of_a_run_is_stated_below_its_latencies():
    measured = [*sweep("vanilla"), timed(twin(blank("vanilla", seq=64)), [1.01e-3, 0.99e-3, 1e-3])]
    sentence = "noise floor: repeat measurements differ by up to 1.7%"
    assert sentence in printed(Tables(tables(measured)), 120)
    assert "noise floor" not in printed(Tables(tables(sweep("vanilla"))), 120)


def test_a_failed_base_has_the_title_the_unit_and_the_direction_of_the_metric_compared():
    def run(*records):
        found = rows(records)
        return [*found, *derived(found, RATES)]

    first, second = (record(job("linear", seq=seq), value(9_000_000), run="new") for seq in (64, 512))
    base = run(failed(job("linear", seq=64), "crash", "SIGSEGV"), replace(second, run="base"))
    comparisons = compare(base, run(first, second), metrics=["flop_rate"])
    text = printed(printable(comparisons))
    assert "Flop rate, forward: new over base (GFLOP/s)" in " ".join(text.split())
    assert [pair.one.unit for pair in comparisons.pairs] == ["FLOP/s", "FLOP/s"]
    assert FORMATS["csv"](comparisons).count(",FLOP/s,") == len(comparisons.pairs)
