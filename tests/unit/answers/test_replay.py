"""A paper's table beside a run's rows: who stands beside whom, ratios, reasons, and what the set-ups differ in."""

import pytest
from msgspec.structs import replace

from attnbench.analysis.rows import rows
from attnbench.answers.replay.beside import ABSENT, as_dict, replay
from attnbench.answers.replay.paper import Mechanism, Paper, Published, Quantity
from unit.analysis.courses_planted import row
from unit.report.planted import accuracies, failed, job

LATENCY = Quantity(metric="latency", value="ms", passes="forward", seq="n")
RECALL = Quantity(metric="accuracy", value="score", task="mqar:pairs=8", conditions={"layers": 4, "pairs": 8})
PAPER = Paper(
    title="A paper",
    source="somewhere",
    suite="standard",
    table="t.csv",
    mechanism="name",
    baseline="Fast",
    conditions={"dtype": "float16", "heads": 8, "device": "an A100"},
    figures=(LATENCY, RECALL),
    mechanisms={
        "Fast": Mechanism(variant="flash"),
        "Blocks": Mechanism(variant="blocks"),
        "Wide blocks": Mechanism(variant="blocks:size=64"),
        "Fused": Mechanism(reason="it is part of another program"),
    },
)


def times(name, value, seq=512):
    return Published(mechanism=name, quantity=LATENCY, seq=seq, value=value)


def replayed(published, measured, *, lacking=None):
    found = replay(PAPER, published, measured, machine={"device": "a laptop"}, lacking=lacking or {})
    return found, {(each.mechanism, each.task or each.seq): each for each in found.figures}


def test_each_figure_is_matched_with_that_of_its_mechanism_at_the_same_length_and_pass():
    measured = [
        row("flash", 512, [2.0] * 3),
        row("flash", 1024, [4.0] * 3),
        row("flash", 512, [9.0] * 3, passes="decode"),
    ]
    _, found = replayed([times("Fast", 0.5), times("Fast", 1.5, 1024), times("Fast", 7.0, 2048)], measured)
    assert [(each.published, each.value) for each in found.values()] == [(0.5, 2.0), (1.5, 4.0), (7.0, None)]
    assert found["Fast", 2048].why == ABSENT


def test_ratios_to_the_baseline_compare_the_same_length_in_the_paper_and_in_the_run():
    measured = [row("flash", 512, [2.0] * 3), row("blocks", 512, [6.0] * 3, options={"size": 32})]
    _, found = replayed([times("Fast", 0.5), times("Blocks", 1.0)], measured)
    one = found["Blocks", 512]
    assert (one.published_ratio, one.ratio) == (2.0, 3.0)
    assert (found["Fast", 512].published_ratio, found["Fast", 512].ratio) == (1.0, 1.0)


def test_a_figure_missing_from_the_paper_or_from_this_run_has_no_ratio():
    _, found = replayed([times("Fast", None), times("Blocks", 1.0)], [row("blocks", 512, [6.0] * 3)])
    assert (found["Blocks", 512].published_ratio, found["Blocks", 512].ratio) == (None, None)


def test_two_mechanisms_of_one_variant_have_the_rows_of_their_own_options():
    narrow, wide = (row("blocks", 512, [each] * 3, options={"size": size}) for each, size in ((1.0, 32), (2.0, 64)))
    _, found = replayed([times("Blocks", 1.0), times("Wide blocks", 1.0)], [narrow, wide])
    assert [each.value for each in found.values()] == [1.0, 2.0]
    _, found = replayed([times("Blocks", 1.0), times("Wide blocks", 1.0)], [wide])  # which is the default as well
    assert [each.value for each in found.values()] == [2.0, 2.0]


def test_an_option_that_follows_the_length_is_matched_by_its_value_at_each_length():
    paper = replace(
        PAPER, mechanisms={"Fast": Mechanism(variant="flash"), "Eighth": Mechanism(variant="blocks:size=N/8")}
    )
    measured = [
        row("blocks", length, [value] * 3, options={"size": size})
        for length, size, value in ((512, 64, 1.0), (1024, 128, 2.0), (1024, 64, 9.0))
    ]
    published = [times("Eighth", 1.0), times("Eighth", 1.0, 1024)]
    found = replay(paper, published, measured, machine={}, lacking={})
    assert [each.value for each in found.figures] == [1.0, 2.0]


def test_a_mechanism_without_a_variant_a_failure_and_a_missing_task_have_a_reason():
    recall = Published(mechanism="Fast", quantity=RECALL, value=0.9)
    measured = rows([failed(job("blocks"), "oom_host", "it needs 9 GiB")])
    _, found = replayed(
        [times("Fused", 1.0), times("Blocks", 1.0), recall], measured, lacking={"mqar:pairs=8": "no task"}
    )
    assert found["Fused", 512].why == "it is part of another program"
    assert (found["Blocks", 512].status, found["Blocks", 512].why) == ("oom_host", "it needs 9 GiB")
    assert found["Fast", "mqar:pairs=8"].why == "no task"


@pytest.mark.parametrize(
    ("typed", "value"), [({}, 0.75), ({"layers": 2}, 0.75), ({"width": 32}, None), ({"pairs": 4}, None)]
)
def test_a_task_matches_whatever_its_preset_unless_options_outside_the_papers_conditions_differ(typed, value):
    measured = rows([accuracies("flash", [0.75], seq=64, **typed)])
    task = Quantity(
        metric="accuracy", value="score", task="mqar:length=64,pairs=8", conditions={"layers": 4, "pairs": 8}
    )
    _, found = replayed([Published(mechanism="Fast", quantity=task, value=0.9)], measured)
    assert found["Fast", "mqar:length=64,pairs=8"].value == value


def test_differences_of_the_setup_are_named_with_both_sides_and_agreements_are_not():
    task = Quantity(
        metric="accuracy", value="score", task="mqar:length=64,pairs=8", conditions={"layers": 4, "pairs": 8}
    )
    paper_figures = [times("Fast", 1.0), Published(mechanism="Fast", quantity=task, value=0.9)]
    measured = [row("flash", 512, [1.0] * 3), *rows([accuracies("flash", [0.75], seq=64)])]
    found = replay(
        Paper(**{name: getattr(PAPER, name) for name in PAPER.__struct_fields__} | {"figures": (LATENCY, task)}),
        paper_figures,
        measured,
        machine={"device": "a laptop"},
        lacking={},
    )
    told = {(each.task, each.name): (each.published, each.here) for each in found.differences}
    assert told["", "dtype"] == ("float16", "float32")
    assert told["", "device"] == ("an A100", "a laptop")
    assert told["mqar:length=64,pairs=8", "layers"] == ("4", "2")
    assert ("mqar:length=64,pairs=8", "pairs") not in told


def test_as_plain_data_a_replay_names_the_run_and_keeps_both_sides():
    found, _ = replayed([times("Fast", 0.5)], [row("flash", 512, [2.0] * 3)])
    told = as_dict(found)
    (figure,) = told["figures"]
    assert (figure["published"], figure["value"], figure["run"], figure["unit"]) == (0.5, 2.0, "r1", "s")
    assert told["title"] == "A paper"
